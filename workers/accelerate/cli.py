"""`isochrone accelerate`: its options and what it prints. pipeline.py does the work and is imported when it runs.

Exit status: 0 with a manifest written, 1 for a fault, 2 for a source, spec or data that cannot be used.
"""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("source")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for the variants.")
@click.option(
    "--spec",
    type=click.Path(path_type=Path),
    default=None,
    help="What it is for, and data.  [default: accelerate.yaml by SOURCE]",
)
@click.option("--variants", default="", metavar="A,B+C", help="Techniques, joined by +.  [default: each one alone]")
@click.option("--price-per-hour", type=click.FloatRange(0), default=None, help="US dollars; on a CPU, of one core.")
@click.option("--report", is_flag=True, help="Also write a page with plots: MODEL.report.html.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest instead of a table.")
def accelerate(
    source: str,
    out: Path,
    spec: Path | None,
    variants: str,
    price_per_hour: float | None,
    report: bool,
    as_json: bool,
) -> None:
    """Make measured variants of SOURCE: a Hugging Face style folder, an ONNX file, or package.module:callable that
    returns a torch module. Writes MODEL.manifest.json, which `isochrone worker serve --manifest` serves."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from workers.accelerate import pipeline, summary
    from workers.accelerate.spec import DEFAULT_NAME, SpecError
    from workers.manifest import read

    place = spec or (Path(source) if Path(source).is_dir() else Path(source).parent) / DEFAULT_NAME
    names = [name.strip() for name in variants.split(",") if name.strip()]
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("")

            def say(variant: str, step: str) -> None:
                progress.update(task, description=f"{variant}: {step}")

            path = pipeline.accelerate(source, place, out, names, price_per_hour, say)
    except SpecError as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise click.ClickException(str(error)) from error
    manifest = read(path)
    written = [path]
    if report:
        from workers.accelerate.report import write  # draws with plotly

        written.append(write(out / f"{manifest.model}.report.html", manifest))
    if as_json:
        click.echo(path.read_text(), nl=False)
        return
    click.echo(summary.text(manifest))
    for each in written:
        click.echo(each)
