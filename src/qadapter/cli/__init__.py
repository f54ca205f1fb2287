"""The command line: one file per command, and what they share.

main            `qadapter`: the commands, and how errors reach the terminal
demo            `qadapter demo`: the whole method on a small model in minutes
train           `qadapter train`: learn a preference
eval            `qadapter eval`: what an adapter gained and what it kept
generate        `qadapter generate`: answers to prompts
chat            `qadapter chat`: talk to an adapter on the terminal
compare         `qadapter compare`: methods × strengths × seeds, and their frontier
serve           `qadapter serve`: OpenAI's API over adapters of one base
playground      `qadapter playground`: base and customized side by side, in the browser
export          `qadapter export`: a trained adapter for other engines
data            `qadapter data check|convert`: look at preference data
env             `qadapter env`: versions and hardware, for bug reports

parser          argparse that raises our errors and suggests names
config          dataclasses from one flat YAML and flags
yaml_text       YAML 1.2, where a text stays as it was written
run_arguments   the fields of `train` that are no training arguments, and its help
run_folder      what an output_dir holds: earlier runs, the saved config, files of others
holdout         held-out pairs, split off by prompt
decoding        the flags and the loading that `generate` and `chat` share
quiet           libraries that keep their progress to themselves

A command file imports torch and the like only inside its `run`, so that `qadapter --help` starts at once.
"""
