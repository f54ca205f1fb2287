"""The adapters of one base behind an API like OpenAI's.

adapters   several artifacts on one copy of the base's weights
engine     the decoder that requests join and leave
metrics    counters in the format of Prometheus
api        HTTP: needs the extra `serve`
static     the page at /
"""
