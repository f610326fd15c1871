"""Names in an ONNX file are UTF-8, or nothing can be said of them."""

from __future__ import annotations

from typing import Any

from halfstep.errors import ModelError


def refuse_other_bytes(message: Any, where: str) -> None:
    """Raises `ModelError` where a string anywhere in a ``message`` is no UTF-8: protobuf gives its bytes then. where: the file."""
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        for part in [value] if isinstance(value, (str, bytes)) or hasattr(value, "ListFields") else value:
            if isinstance(part, bytes):
                place = f"{field.name} of {message.DESCRIPTOR.name}"
                raise ModelError(f"A name in '{where}' ({place}) is no UTF-8. Rename it, or export the file again.")
            if field.type == field.TYPE_MESSAGE:
                refuse_other_bytes(part, where)
