"""Archives for the servers of benchmarks: written from predictions, and checked without a server.

A task (:mod:`.tasks`) is what one server takes. Its writer (:mod:`.coco`, :mod:`.panoptic`, :mod:`.cityscapes`,
:mod:`.label_images`) turns the prediction of one image into a part; parts lie in a folder that any number of processes
share (:mod:`.parts`); :mod:`.archive` makes a zip with the official names of them. :mod:`.validator` reads such a zip
and names what the server would refuse, or what it would take and score as nonsense.
"""
