"""One call by grpcio. Reads it from the first argument and prints the answer as JSON."""

import base64
import json
import sys
from urllib.parse import urlsplit

import grpc

call = json.loads(sys.argv[1])
answer = {"headers": [], "code": 0}


def note(metadata):
    for name, value in metadata or ():
        data = value if isinstance(value, bytes) else value.encode()
        encoded = base64.urlsafe_b64encode(data).decode().rstrip("=")
        answer["headers"].append([name, encoded])


with grpc.insecure_channel(urlsplit(call["url"]).netloc) as channel:
    send = channel.unary_unary(call["path"])
    metadata = tuple((name.lower(), value) for name, value in call["headers"].items())
    try:
        message, done = send.with_call(
            base64.b64decode(call["message"]), metadata=metadata, timeout=60
        )
        answer["message"] = base64.b64encode(message).decode()
    except grpc.RpcError as error:
        done = error
        answer["code"] = error.code().value[0]
    note(done.initial_metadata())
    note(done.trailing_metadata())

print(json.dumps(answer))
