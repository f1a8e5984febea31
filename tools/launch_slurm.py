"""Train on a SLURM cluster: one job that saves, is started again and goes on until the training is done.

.venv/bin/python tools/launch_slurm.py --nodes 2 --gpus-per-node 8 --time 24:00:00 --partition gpu \\
    --config-file configs/fapn/mask_rcnn_R_50_FaPN_1x.yaml OUTPUT_DIR output/fapn
.venv/bin/python tools/launch_slurm.py --gpus-per-node 8 --time 24:00:00 \\
    --row fapn.t3.faster_rcnn_r50_fapn --seeds 3  # a row of a table: an array with one job per seed
.venv/bin/python tools/launch_slurm.py --gpus-per-node 8 --dry-run \\
    --config-file configs/fapn/mask_rcnn_R_50_FaPN_1x.yaml  # print the script, send nothing

What is not an option of this program goes to tools/train_net.py as it is. SLURM starts one process per GPU. Two
minutes before the time limit (--grace), and at a preemption, all processes get a signal, save, and the job is requeued.
After a failed node SLURM requeues the job, which goes on from its last checkpoint.
"""

import argparse
import runpy
from pathlib import Path

from fapn_d2.cluster.jobs import TOOLS, ClusterJob, Request, minutes, script, submit
from fapn_d2.config.loading import load_config
from fapn_d2.data import check_datasets
from fapn_d2.engine import argument_parser
from fapn_d2.messages import user_errors_as_messages
from fapn_d2.reproduction.ledger import find_row, load_ledgers


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    top.add_argument("--nodes", type=int, default=1)
    top.add_argument("--gpus-per-node", type=int, default=8, help="0: train on the CPU (default: 8)")
    top.add_argument("--tasks-per-node", type=int, help="processes per node (default: one per GPU)")
    top.add_argument("--cpus-per-task", type=int, default=5, help="cores per process, loaders included (default: 5)")
    top.add_argument("--time", default="24:00:00", help="limit of one start: minutes, HH:MM:SS or DAYS-HH:MM:SS")
    top.add_argument("--grace", type=int, default=120, help="seconds to save before the limit (default: 120)")
    top.add_argument("--requeues", type=int, default=20, help="how often the job may start again (default: 20)")
    top.add_argument("--partition")
    top.add_argument("--account")
    top.add_argument("--qos")
    top.add_argument("--name", help="of the job (default: the name of the config or the row)")
    top.add_argument("--setup", action="append", default=[], metavar="LINE", help="a shell line before the command")
    top.add_argument("--container", metavar="IMAGE", help="run in this container (SLURM with pyxis)")
    top.add_argument("--sbatch", action="append", default=[], metavar="OPTION=VALUE", help="any option of sbatch")
    top.add_argument("--srun", action="append", default=[], metavar="ARGUMENT", help="any argument of srun")
    top.add_argument("--logs", type=Path, default=Path("output/slurm"), help="on a shared disk; one file per task")
    top.add_argument("--dry-run", action="store_true", help="print the script and send nothing")
    top.add_argument("--debug", action="store_true", help="tracebacks for all errors")
    row = top.add_argument_group("a row of a table instead of a config")
    row.add_argument("--row", help="the id of a row, see tools/reproduce.py list")
    row.add_argument("--seeds", type=int, default=1, help="how many runs, each a job of an array (default: 1)")
    return top


def request(args: argparse.Namespace, name: str, tasks: int) -> Request:
    """What the options ask of SLURM."""
    options = {key: getattr(args, key) for key in ("partition", "account", "qos") if getattr(args, key)}
    for pair in args.sbatch:
        key, equals, value = pair.removeprefix("--").partition("=")
        options[key] = value if equals else True
    container = (f"--container-image={args.container}",) if args.container else ()
    return Request(
        name=args.name or name,
        logs=args.logs.absolute(),
        nodes=args.nodes,
        tasks_per_node=tasks,
        gpus_per_node=args.gpus_per_node,
        cpus_per_task=args.cpus_per_task,
        minutes=minutes(args.time),
        grace=args.grace,
        requeues=args.requeues,
        setup=tuple(args.setup),
        srun=(*container, *args.srun),
        sbatch=options,
    )


def training(args: argparse.Namespace, words: list[str]) -> tuple[Request, list[ClusterJob]]:
    """A job of tools/train_net.py. The config and the data sets are checked here, not after hours in a queue."""
    given = argument_parser().parse_args(words)
    if given.num_gpus != 1 or given.num_machines != 1:
        raise ValueError("--num-gpus and --num-machines are for other launchers: use --gpus-per-node and --nodes")
    cfg = load_config(given.config_file, given.opts or [])
    if not args.dry_run:
        check_datasets(cfg, cfg.DATASETS.TEST if given.eval_only else None)
    tasks = args.tasks_per_node or args.gpus_per_node or 1
    words = words if given.resume else ["--resume", *words]
    job = ClusterJob("train_net", words, args.requeues)
    return request(args, Path(given.config_file).stem if given.config_file else "train_net", tasks), [job]


def row_of_a_table(args: argparse.Namespace, words: list[str]) -> tuple[Request, list[ClusterJob], bool]:
    """One job per seed of tools/reproduce.py, and whether seed 1 must come first: the others may use its networks."""
    row = find_row(load_ledgers(), args.row)
    if row.pending:
        raise ValueError(f"row {row.id} is not built yet: {row.pending}")
    if args.nodes != 1:
        raise ValueError("a row runs on one node: leave --nodes out")
    if args.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {args.seeds}")
    runpy.run_path(str(TOOLS / "reproduce.py"))["parser"]().parse_args(["run", row.id, *words])  # ends at a wrong word
    start = ["run", row.id, "--num-gpus", str(args.gpus_per_node or args.tasks_per_node or 1), *words]
    jobs = [ClusterJob("reproduce", [*start, "--only-seed", str(n + 1)], args.requeues) for n in range(args.seeds)]
    return request(args, row.id, 1), jobs, bool(row.pretraining or row.proposals or row.alternating)


def main(argv: list[str] | None = None) -> None:
    args, words = parser().parse_known_args(argv)
    with user_errors_as_messages(debug=args.debug):
        if args.row:
            asked, jobs, first_alone = row_of_a_table(args, words)
        else:
            (asked, jobs), first_alone = training(args, words), False
        if args.dry_run:
            print(script(asked, len(jobs)))
            for job in jobs:
                print(f"# calls: tools/{job.tool}.py {' '.join(job.words)}")
            return
        if first_alone and len(jobs) > 1:
            numbers = submit(asked, jobs[:1])
            numbers += submit(asked, jobs[1:], after=numbers[0])
        else:
            numbers = submit(asked, jobs)
        for number in numbers:
            print(f"Submitted job {number}: {asked.nodes} node(s), {asked.tasks_per_node} task(s) per node.")
            print(f"  follow it   tail -F {asked.logs}/{number}_0_log.out")
        print(f"  its state   squeue --jobs {','.join(numbers)}")
        print("  save, stop  scancel JOB    go on: submit the same command again")


if __name__ == "__main__":
    main()
