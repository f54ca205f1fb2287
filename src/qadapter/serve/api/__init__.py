"""HTTP in the shape of OpenAI's API, on FastAPI. Importing this package needs the extra `serve`.

body         bodies as JSON
schema       what bodies may hold
service      from a body's fields to a request for the engine
handover     from the engine's thread to the event loop
answering    the requests of one body, and what the engine says about them
collected    whole answers; events: streamed ones
answer       what the answers of both routes have in common
chat         POST /v1/chat/completions
completions  POST /v1/completions
info         GET /v1/models, /health, /metrics
playground   what the page at / needs beside these
turns        one token view at a time
page         its files
errors       OpenAI's format of errors
gate         key, host, size of bodies
app          all of it as one application
server       uvicorn, with a graceful end
"""
