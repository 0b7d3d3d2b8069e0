"""Lark grammars of custom tools, for tests."""

from __future__ import annotations

from lmnb.chat.conversation import OutputFormat, Tool

PATCH = r"""
start: begin_patch hunk+ end_patch
begin_patch: "*** Begin Patch" LF
end_patch: "*** End Patch" LF?

hunk: add_hunk | delete_hunk | update_hunk
add_hunk: "*** Add File: " filename LF add_line+
delete_hunk: "*** Delete File: " filename LF
update_hunk: "*** Update File: " filename LF change_move? change?

filename: /(.+)/
add_line: "+" /(.*)/ LF -> line

change_move: "*** Move to: " filename LF
change: (change_context | change_line)+ eof_line?
change_context: ("@@" | "@@ " /(.+)/) LF
change_line: ("+" | "-" | " ") /(.*)/ LF
eof_line: "*** End of File" LF

%import common.LF
"""
"""Codex's patches, in the words of the documentation of its tool."""

SUMS = r"""
?start: sum
?sum: product (("+" | "-") product)*      // left to right
?product: atom (("*" | "/") atom)~0..3
?atom: NUMBER -> number | NAME | "(" sum ")" | TEXT
     | "[" [sum ("," sum)*] "]"

NAME: LETTER ("_" | LETTER | "0".."9")~0..5
TEXT: "'" ("\\" /./ | /[^'\\\n]/)~0..6 "'"
COMMENT: "#" /[^\n]/~0..5 "\n"

%import common (NUMBER, LETTER)
%import common.WS_INLINE -> SPACE
%ignore SPACE
%ignore COMMENT
"""
"""With what may stand between terminals, ranges, repetitions, and names for trees."""


def custom_tool(definition: str, name: str = "write") -> Tool:
    """As `lmnb.server.openai.toolbox` makes it."""
    return Tool(
        name,
        "Writes.",
        {
            "type": "object",
            "properties": {"input": {"type": "string"}},
            "required": ["input"],
            "additionalProperties": False,
        },
        input_format=OutputFormat("lark", definition=definition),
    )
