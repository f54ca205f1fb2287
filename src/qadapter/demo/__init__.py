"""The whole method on a small real model in minutes: `qadapter demo`.

preference.*.jsonl   400 training and 140 held-out pairs, written for the project: answer briefly, then ask back
checker              what "fulfilled" means, as a program
run                  train, measure before and after, report
"""
