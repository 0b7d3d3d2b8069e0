from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

import lmnb
from lmnb.errors import ContextOverflow, LmnbError, ModelNotFound
from lmnb.models.names import not_found
from lmnb.notebook.failures import Interrupted, UsageMistake, short_errors

HEAVY = {
    "anthropic", "openai", "httpx2", "fastapi", "starlette", "uvicorn", "pydantic", "pandas", "numpy",
    "ipywidgets", "llama_cpp", "msgspec", "huggingface_hub", "tqdm",
}  # fmt: skip


@pytest.fixture
def shell() -> Iterator[Any]:
    InteractiveShell.clear_instance()
    shell: Any = InteractiveShell.instance()
    shell.history_manager.enabled = False
    shell.run_line_magic("load_ext", "lmnb")
    yield shell
    shell.run_line_magic("unload_ext", "lmnb")
    shell.history_manager.end_session()
    InteractiveShell.clear_instance()


def new_modules(code: str) -> set[str]:
    """Modules that `code` imports into a Python that has a running IPython already."""
    script = f"""
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "autoreload")
before = set(sys.modules)
{code}
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_loading_the_extension_imports_next_to_nothing() -> None:
    assert new_modules("shell.run_line_magic('load_ext', 'lmnb')") == {
        "lmnb",
        "lmnb.notebook",
        "lmnb.notebook.extension",
        "lmnb.notebook.traits",
        "lmnb.notebook.tables",
    }


def test_loading_the_extension_takes_no_time() -> None:
    """Of the processor, so that other work of the machine counts for nothing."""
    script = """
import time
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
start = time.process_time()
shell.run_line_magic("load_ext", "lmnb")
print(time.process_time() - start)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert float(done.stdout) < 0.15


def test_mistakes_and_help_import_no_sdk() -> None:
    modules = new_modules("""
shell.run_line_magic("load_ext", "lmnb")
shell.run_line_magic("lm", "-h")
shell.run_cell("%lm nonsense")
shell.run_cell("%%claude --nonsense\\nhello")
shell.run_cell("%%openai -h\\nhello")
""")
    assert not HEAVY & modules


def test_a_kernel_never_imports_the_engine() -> None:
    modules = new_modules("""
import lmnb.attaching, lmnb.notebook.lm, lmnb.notebook.completion, lmnb.notebook.widgets.ui
from lmnb.notebook import magics, answer, status
""")
    rooms = {name.split(".")[1] for name in modules if name.startswith("lmnb.")}
    assert not rooms & {"engine", "chat", "models", "server"}
    assert not {"llama_cpp", "anthropic", "openai", "fastapi", "pandas", "numpy"} & modules


def test_importing_lmnb_imports_nothing_else() -> None:
    assert new_modules("import lmnb") == {"lmnb"}


def test_public_names() -> None:
    assert lmnb.LmnbError is LmnbError
    assert callable(lmnb.attach)
    assert set(lmnb.__all__) <= set(dir(lmnb))
    with pytest.raises(AttributeError, match="nonsense"):
        lmnb.nonsense  # noqa: B018


def test_magics_come_and_go(shell: Any) -> None:
    def kinds(name: str) -> set[str]:
        return {kind for kind, found in shell.magics_manager.magics.items() if name in found}

    assert (kinds("lm"), kinds("claude"), kinds("openai")) == ({"line"}, {"cell"}, {"cell"})
    shell.run_line_magic("unload_ext", "lmnb")
    assert not kinds("lm") | kinds("claude") | kinds("openai")
    shell.run_line_magic("reload_ext", "lmnb")
    assert kinds("lm") == {"line"}


def test_unloading_forgets_conversations(shell: Any) -> None:
    from lmnb.notebook.magics import claude

    claude.conversation.turns.append({"role": "user", "content": "hi"})
    shell.run_line_magic("reload_ext", "lmnb")
    assert claude.conversation.turns == []


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("%lm -h", "usage: %lm "),
        ("%lm help", "usage: %lm "),
        ("%lm help serve", "usage: %lm serve "),
        ("%lm serve --help", "usage: %lm serve "),
        ("%%claude -h\nhello", "usage: %%claude "),
        ("%%openai -h\nhello", "--api {responses,chat}"),
    ],
)
def test_help(shell: Any, code: str, text: str) -> None:
    with capture_output() as captured:
        assert shell.run_cell(code).success
    assert text in captured.stdout


@pytest.mark.parametrize(("name", "kind"), [("lm", "line"), ("claude", "cell"), ("openai", "cell")])
def test_a_question_mark_shows_the_same_help(shell: Any, name: str, kind: str) -> None:
    prefix = "%" if kind == "line" else "%%"
    info = shell.object_inspect(prefix + name)
    assert info["docstring"].startswith(f"usage: {prefix}{name} ")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("%lm unlod", "unknown command unlod"),
        ("%lm help unlod", "unknown command unlod"),
        ("%lm serve --prt 1", "unknown option --prt"),
        ("%lm serve --port 99999", "--port: 99999 is not between 0 and 65535"),
        ("%lm unload --all x", "not both"),
        ("%%claude -m my model\nhello", "unknown word model"),
        ("%%claude --temperature hot\nhello", "--temperature"),
        ("%%claude -o 1x\nhello", "'1x' cannot be the name of a variable"),
        ("%%claude\n  \n", "The cell is empty"),
        ("%%openai --api soap\nhello", "--api: invalid choice: 'soap'"),
    ],
)
def test_mistakes_are_raised_in_one_line(shell: Any, code: str, message: str) -> None:
    with capture_output() as captured:
        result = shell.run_cell(code)
    assert isinstance(result.error_in_exec, UsageMistake)
    assert message in result.error_in_exec.message
    shown = captured.stdout + captured.stderr
    assert message in shown
    assert "Traceback" not in shown
    assert len(shown.strip().splitlines()) <= 2


def test_a_cell_magic_used_as_a_line_magic_is_explained_by_ipython(
    shell: Any,
) -> None:
    with pytest.raises(UsageError, match="%%claude"):
        shell.run_line_magic("claude", "hello")


def test_the_hint_is_shown_below_the_error() -> None:
    with pytest.raises(ModelNotFound) as caught, short_errors():
        raise ModelNotFound("No model.", hint="%lm get")
    lines = vars(caught.value)["_render_traceback_"]()
    assert [line.partition("\x1b[0m")[2] or line for line in lines] == [
        ": No model.",
        "Hint: %lm get",
    ]


def test_commands_in_hints_are_magics() -> None:
    with pytest.raises(ModelNotFound) as caught, short_errors():
        raise ModelNotFound("No.", hint="`lmnb get` fetches one; `lmnb token create` is another.")
    shown = vars(caught.value)["_render_traceback_"]()[1]
    assert shown == "Hint: `%lm get` fetches one; `lmnb token create` is another."


def test_a_builtin_model_that_is_missing_is_fetched_with_one_command() -> None:
    with pytest.raises(ModelNotFound) as caught, short_errors():
        raise not_found("all-minilm-l6-v2", [])
    shown = vars(caught.value)["_render_traceback_"]()[1]
    assert shown == "Hint: Fetch it with `%lm get all-minilm-l6-v2`."


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError) as caught, short_errors():
        raise ZeroDivisionError
    assert not hasattr(caught.value, "_render_traceback_")


def test_an_interrupt_stays_an_interrupt() -> None:
    with pytest.raises(Interrupted) as caught, short_errors():
        raise KeyboardInterrupt
    assert isinstance(caught.value, KeyboardInterrupt)
    assert len(caught.value._render_traceback_()) == 1


@pytest.mark.parametrize(
    "message",
    [str(ContextOverflow(90, 80)), "prompt is too long: 90 tokens > 80 maximum"],
)
def test_a_full_context_says_what_to_do(message: str) -> None:
    from lmnb.notebook.api import failure

    error = failure(message, "whatever")
    assert isinstance(error, ContextOverflow)
    assert (error.prompt_tokens, error.context_length) == (90, 80)
    assert "--new" in (error.hint or "")


def complete(shell: Any, code: str, cursor: int | None = None) -> set[str]:
    with provisionalcompleter():
        found = shell.Completer.completions(code, len(code) if cursor is None else cursor)
        return {code[: c.start] + c.text for c in found}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("%lm un", {"%lm unload"}),
        ("%lm serve --st", {"%lm serve --stop"}),
        ("%lm serve --po", {"%lm serve --port"}),
        ("x = 1\n%lm lo", {"x = 1\n%lm load", "x = 1\n%lm log"}),
        ("%%claude --temp", {"%%claude --temperature"}),
        ("%%openai --ap", {"%%openai --api"}),
        ("%%claude --too", {"%%claude --tools"}),
        ("%%claude --no", {"%%claude --no-thinking"}),
    ],
)
def test_completion(shell: Any, code: str, expected: set[str]) -> None:
    assert complete(shell, code) == expected


def test_completion_of_variables(shell: Any) -> None:
    shell.user_ns.update(my_function=complete, my_picture=b"", my_schema={"type": "object"})
    assert complete(shell, "%%claude --tools my_") == {"%%claude --tools my_function"}
    assert complete(shell, "%%claude --tools x,my_") == {"%%claude --tools x,my_function"}
    assert complete(shell, "%%openai --image my_") == {"%%openai --image my_picture"}
    assert complete(shell, "%%openai -m x --schema my_") == {"%%openai -m x --schema my_schema"}
    for name in ("my_function", "my_picture", "my_schema"):
        del shell.user_ns[name]


def test_completion_of_python_is_left_alone(shell: Any) -> None:
    assert "import" in complete(shell, "imp")
