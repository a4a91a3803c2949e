"""raftcoord init: a cluster.yaml to start from."""

from __future__ import annotations

from pathlib import Path

import click

from .options import Output, with_output


@click.command()
@click.option(
    "--nodes", type=click.Choice(["1", "3", "5", "7"]), default="3", show_default=True, help="How many nodes."
)
@click.option("--name", default="", help="The cluster's name: a-z, 0-9 and '-'. [default: the directory's]")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("cluster.yaml"),
    show_default=True,
    envvar="RAFTCOORD_CONFIG",
    show_envvar=True,
    help="The file to write.",
)
@with_output
def init(nodes: str, name: str, force: bool, path: Path, output: Output) -> None:
    """Write a cluster.yaml with comments, for nodes on free ports of this machine. Nothing is started."""
    from raftcoord.node.cluster_file import write_new

    config = write_new(path, int(nodes), name, force=force)
    members = [{"name": node.name, "peer": str(node.peer), "client": str(node.client)} for node in config.nodes]
    output.result(
        {"path": str(path), "cluster": config.cluster, "nodes": members},
        f"wrote {path}: cluster {config.cluster}, {len(members)} node{'s' if len(members) > 1 else ''} on this machine\n"
        f"next: raftcoord up -d{'' if path == Path('cluster.yaml') else f' -c {path}'}; raftcoord status",
    )
