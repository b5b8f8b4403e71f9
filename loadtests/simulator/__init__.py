"""The world in a box: virtual time, the product's own Router, and every baseline a referee would ask for.

    world       what there is: regions, nodes, prices, gateways, load, faults (YAML -> frozen structs)
    timeline    the only clock: a heap of events
    wan         one-way delays drawn from measured round trips
    serving     what a worker does with requests: `queueing` (fast) or `batching` (iteration by iteration), from the
                parts in `machine`, with profiles that `fit` reads off measurements
    call        a request and the attempts at it, as edges and workers know them
    faults      who is hit by what, and when
    registry    heartbeats on their way to the gateways: late, lost, or not at all
    edge        one gateway: asks its contender, sends, retries, reports
    contender   what decides: the shipped Router, or a baseline with the same verbs
    contenders  all of them by name; `baselines/` holds the policies to beat
    fluid       the bound nobody beats: a linear program over the kinds of requests that `mix` sorts out
    exact       the optimum of small worlds: an integer program
    ledger      what came of every request, and the figures made of it
    runs        scenarios x policies x seeds, paired, over processes
    whatif      other policies on what was really asked: history, from decision logs (replay) or others' (foreign)

A run is a pure function of (scenario, policy, seed). Times are virtual seconds, money US dollars.
"""
