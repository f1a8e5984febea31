"""Archives for the servers of benchmarks: written from predictions, and checked without a server.

A task (:mod:`.tasks`) describes what one server accepts. The writer of a task (:mod:`.coco`, :mod:`.panoptic`,
:mod:`.cityscapes`, :mod:`.label_images`) turns the prediction of one image into a part. Parts are stored in a folder
that any number of processes share (:mod:`.parts`). :mod:`.archive` writes them into a zip with the official names.
:mod:`.validator` reads such a zip. It names faults that the server would refuse, and faults that it would accept but
that make the scores meaningless.
"""
