"""The decision, pure: which node a request goes to, and nothing else.

worker     one process with one address and one accelerator; it writes one static record and one load record
endpoint   one model variant a worker serves (model, variant, quality, service curve)
node       an endpoint plus what this gateway knows of it; nodes of one worker share its wait
region     where a worker is; zone, cloud and accelerator are labels
fleet      all nodes
model      the name clients ask for; a variant is one accelerated build of it, with its measured quality
load       what a worker reports: waiting, running, backlog, as of when
ETA        the predicted time to completion: a mean, part by part, and a spread
deadline   an absolute monotonic instant; budget is the time left, slack is budget minus ETA
tier       the nodes whose expected cost for this request is within 5 % of the cheapest feasible one
balancer   picks a node; a policy is a balancer, an admission and a retry setting
shed       the decision to refuse; dispatch, the decision to send; outcome, what came of it
ejection   taking a worker out for bad health; panic is distrusting the health data instead
drain      sending nothing new; lease and heartbeat are how a worker stays known

Start at `router.py`.
"""
