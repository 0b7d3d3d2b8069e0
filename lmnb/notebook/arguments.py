"""The line of a magic: split into words, parsed by argparse, mistakes in one sentence."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from lmnb.notebook.failures import HelpShown, UsageMistake


def split(line: str) -> list[str]:
    r"""The words of a line, as a shell would split them, except that `\` is an ordinary character.

    Quotes, single or double, keep words together and are taken off, wherever in a word they
    stand. A word that begins with an unquoted `#` begins a comment.

    >>> split('-m C:\\x.gguf -s "be brief" --out=a # ask')
    ['-m', 'C:\\x.gguf', '-s', 'be brief', '--out=a']
    """
    words: list[str] = []
    word: str | None = None
    quote = ""
    for char in line:
        if quote:
            if char == quote:
                quote = ""
            else:
                word = (word or "") + char
        elif char in "'\"":
            quote, word = char, word or ""
        elif char.isspace():
            if word is not None:
                words.append(word)
            word = None
        elif char == "#" and word is None:
            break
        else:
            word = (word or "") + char
    if quote:
        raise UsageMistake(
            f"The quote {quote} is never closed.",
            hint="Put the other kind of quotes around words that contain one.",
        )
    return words if word is None else [*words, word]


class _Help(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        raise HelpShown(parser.format_help())


class _Once(argparse.Action):
    """Stores a value; a second one on the same line is a mistake, not an override."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        given = namespace.__dict__.setdefault("_given", set())
        if self.dest in given:
            parser.error(f"{option_string} is given twice")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """An argparse parser for a magic: `-h` shows help, a mistake raises `UsageMistake`."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**options, add_help=False, allow_abbrev=False)
        self.register("action", None, _Once)
        self.register("action", "store", _Once)
        self.add_argument("-h", "--help", action=_Help, nargs=0, help="show this help")

    def parse_line(self, line: str) -> argparse.Namespace:
        """The options in `line`; raises `UsageMistake` or `HelpShown`."""
        namespace, rest = self.parse_known_args(split(line))
        if rest:
            # argparse collects what a sub-command did not understand; it is the one to say so.
            chosen = self.commands().get(getattr(namespace, "command", None) or "", self)
            chosen.error(f"unrecognized arguments: {' '.join(rest)}")
        return namespace

    def options(self) -> list[str]:
        """The option strings this parser knows, long forms included."""
        return [word for action in self._actions for word in action.option_strings]

    def values_of(self, option: str) -> argparse.Action | None:
        """The option whose value comes next, if it has to have one."""
        action = self._option_string_actions.get(option)
        return None if action is None or action.nargs in {0, "?"} else action

    def places(self) -> list[argparse.Action]:
        """What may stand without an option, sub-commands left out."""
        return [
            action
            for action in self._get_positional_actions()
            if not isinstance(action, argparse._SubParsersAction)  # noqa: SLF001 - no public way
        ]

    def commands(self) -> dict[str, Parser]:
        """The sub-commands by name; empty if there are none."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - no public way
                return dict(action.choices)
        return {}

    def error(self, message: str) -> NoReturn:
        """Raise the mistake, with a hint at what was probably meant."""
        if match := re.fullmatch(r"unrecognized arguments: (\S+).*", message, re.DOTALL):
            word = match[1]
            if not word.startswith("-"):
                raise UsageMistake(f"{self.prog}: unknown word {word}.", hint=self._about_words())
            self._unknown("option", word, self.options())
        match = re.match(r"argument \w+: invalid choice: '([^']*)'", message)
        if match and (commands := self.commands()):
            self._unknown("command", match[1], list(commands))
        text = re.sub(r"^argument (\S+?)(?:/\S+)?: ", r"\1: ", message)
        raise UsageMistake(
            f"{self.prog}: {text[0].lower() + text[1:] if text[1:2].islower() else text}.",
            hint=self._about_options(),
        )

    def _about_options(self) -> str:
        # IPython runs no cell magic without a cell below it, not even for its help.
        command = f"{self.prog}?" if self.prog.startswith("%%") else f"{self.prog} -h"
        return f"{command} lists what can be given."

    def _about_words(self) -> str:
        if self.prog.startswith("%%"):
            return "The message stands below this line. Quotes keep words together."
        return f"Quotes keep words together. {self._about_options()}"

    def _unknown(self, kind: str, word: str, known: list[str]) -> NoReturn:
        close = difflib.get_close_matches(word.split("=", 1)[0], known, n=1)
        hint = f"Did you mean {close[0]}?" if close else self._about_options()
        raise UsageMistake(f"{self.prog}: unknown {kind} {word}.", hint=hint)


def number(low: float, high: float = float("inf")) -> Any:
    """A type for argparse: a finite number in [low, high]."""

    def convert(text: str) -> float:
        value = float(text)
        if not low <= value <= high or value == float("inf"):
            raise argparse.ArgumentTypeError(_range(text, low, high))
        return value

    convert.__name__ = "number"
    return convert


def integer(low: int, high: int | None = None) -> Any:
    """A type for argparse: an integer ≥ low and, if given, ≤ high."""

    def convert(text: str) -> int:
        value = int(text)
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(_range(text, low, high))
        return value

    convert.__name__ = "integer"
    return convert


def variable(text: str) -> str:
    """A type for argparse: the name of a Python variable."""
    from keyword import iskeyword

    if not text.isidentifier() or iskeyword(text):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be the name of a variable")
    return text


def names(text: str) -> list[str]:
    """A type for argparse: `f,g`, variables or attributes of them."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    for name in found:
        for part in name.split("."):
            variable(part)
    return found


def thinking(text: str) -> int | str:
    """A type for argparse: how hard to think, or for how many tokens."""
    from lmnb.notebook.api import EFFORTS

    if text in EFFORTS:
        return text
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(
        f"{text!r} is neither a number of tokens nor {_either(EFFORTS)}"
    )


def look_up(name: str, variables: Mapping[str, Any], option: str) -> Any:
    """The value of a variable of the notebook, or of an attribute of one (`a.b`).

    Raises
    ------
    UsageMistake
        There is none.
    """
    first, *rest = name.split(".")
    if first not in variables:
        close = difflib.get_close_matches(first, [key for key in variables if key[0] != "_"], n=1)
        raise UsageMistake(
            f"{option} {name}: there is no variable {first!r}.",
            hint=f"Did you mean {close[0]}?" if close else "Run the cell that defines it.",
        )
    value = variables[first]
    for part in rest:
        if not hasattr(value, part):
            raise UsageMistake(f"{option} {name}: there is no {part!r} in it.")
        value = getattr(value, part)
    return value


def _either(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _range(text: str, low: float, high: float | None) -> str:
    bounds = f"at least {low}" if high in {None, float("inf")} else f"between {low} and {high}"
    return f"{text} is not {bounds}"
