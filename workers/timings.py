"""Where a request's time went, as the wire says it: `Server-Timing` on unary replies, an SSE comment on streams.

The format lives in policies/records.py (`Timings`); this file only reads the clocks of finished jobs. Gateways
subtract these figures from what they saw to tell network, queue and compute apart, and bill by `accel`.
"""

from __future__ import annotations

from collections.abc import Sequence

from policies.records import TIMING_COMMENT, Timings
from policies.reports import REPORT_COMMENT
from workers.queue import Job


def timings(jobs: Sequence[Job]) -> Timings:
    """One request's figures over all its jobs (a large embedding request is several). Seconds.

    queue: until the first of them started. prefill: from there to the first token or, without tokens, to the end of
    all compute. decode: first token to last. accel: accelerator seconds of all of them together. batch: items in the
    largest of the batches they were in.
    """
    started = [job.started for job in jobs if job.started is not None]
    finished = [job.finished for job in jobs if job.finished is not None]
    if not started or not finished:
        return Timings()
    begin, end = min(started), max(finished)
    first = jobs[0].first
    return Timings(
        queue=max(begin - min(job.arrived for job in jobs), 0.0),
        prefill=max((end if first is None else first) - begin, 0.0),
        decode=None if first is None else max(end - first, 0.0),
        accel=sum(job.accel for job in jobs),
        batch=max(job.batch for job in jobs) or None,
    )


def comment(figures: Timings) -> bytes:
    """The SSE comment that stands before `data: [DONE]`; clients skip comments, gateways read them."""
    return TIMING_COMMENT + figures.encode().encode() + b"\n\n"


def load_comment(report: str) -> bytes:
    """The SSE comment beside it that says what the load is as of the end of the stream."""
    return REPORT_COMMENT + report.encode() + b"\n\n"
