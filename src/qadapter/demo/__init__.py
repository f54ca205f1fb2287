"""The whole method on a small real model in minutes: `qadapter demo`.

preference.*.jsonl   400 training and 140 held-out pairs: answer briefly, then ask one follow-up question. All chosen
                     answers are written for the project; of the rejected ones about half are the base model's own
                     (`examples/sample_demo_rejections.py`), the others are written to break one part of the rule
checker              what "fulfilled" means, as a program
run                  train, measure before and after, report
"""
