"""The program's process: executes the program, then calls its function with the arguments that the judge sends.

It knows neither the tests nor the expected values, and what it answers is data, see `values`.
"""

import builtins
from typing import Any

from t5x_like.sandbox import values
from t5x_like.sandbox.channel import Channel

READY = "ready"


def serve(channel: Channel) -> None:
    """Receives {"program", "entry_point"}, executes the program, and answers calls until the judge closes the channel."""
    channel.send(READY)
    job = channel.receive()
    namespace: dict[str, Any] = {"__name__": "program"}
    exec(compile(job["program"], "program", "exec"), namespace)
    function = namespace[job["entry_point"]]
    channel.send(READY)
    while True:
        channel.send(answer(function, channel.receive()))


def answer(function: Any, message: Any) -> dict[str, Any]:
    """Calls the function: {"value"} or {"raised": [name, arguments]}, and {"arguments"} if the call changed them.

    A value that cannot travel is {"refused": reason}.
    """
    arguments = values.decode(message)
    args, kwargs = arguments
    try:
        result = function(*args, **kwargs)
    except Exception as error:
        reply = {"raised": [builtin_name(type(error)), encode_arguments(error)]}
    else:
        try:
            reply = {"value": values.encode(result)}
        except (TypeError, ValueError, RecursionError) as error:
            return {"refused": str(error)}
    try:
        after = values.encode(arguments)
    except (TypeError, ValueError, RecursionError) as error:
        return {"refused": str(error)}
    return reply if after == message else reply | {"arguments": after}


def builtin_name(kind: type) -> str:
    """The name of the nearest builtin class of an exception."""
    return next(base.__name__ for base in kind.__mro__ if getattr(builtins, base.__name__, None) is base)


def encode_arguments(error: Exception) -> Any:
    """The arguments of an exception, or its text if they cannot travel."""
    try:
        return values.encode(list(error.args))
    except (TypeError, ValueError, RecursionError):
        return [str(error)]
