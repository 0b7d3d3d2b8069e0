"""`.lm` in a notebook: registered without importing pandas, stopped by ■, told in a line."""

from __future__ import annotations

import subprocess
import sys

from notebook_kernel import Kernel
from server_home import CHAT, ServerHome, wait_for


def test_the_extension_registers_when_pandas_comes() -> None:
    code = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.history_manager.enabled = False
shell.run_line_magic("load_ext", "lmnb")
assert "pandas" not in sys.modules
import pandas
assert pandas.__spec__.loader is pandas.__loader__
assert type(pandas.DataFrame({"a": [1]}).lm).__name__ == "FrameAccessor"
assert type(pandas.Series([1]).lm).__name__ == "SeriesAccessor"
shell.run_line_magic("unload_ext", "lmnb")
shell.run_line_magic("load_ext", "lmnb")
import lmnb.frame
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_tables_may_be_what_imports_pandas() -> None:
    code = """
from lmnb.notebook import tables
tables.register()
import lmnb.frame
import pandas
assert type(pandas.Series([1]).lm).__name__ == "SeriesAccessor"
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_the_stop_button_stops_and_the_next_run_goes_on(server: ServerHome) -> None:
    client = server.attach()
    with Kernel(server.path) as kernel:
        kernel.run("import pandas as pd\n%load_ext lmnb\nimport lmnb")
        kernel.run("df = pd.DataFrame({'n': range(400)}, index=range(400, 0, -1))")
        run = f"out = df.lm.map('Count from {{n}}', model='{CHAT}', max_tokens=16, retries=0)"
        cell, behind = kernel.start(run), kernel.start("print('not reached')")
        kernel.wait(lambda: "error" in cell.text)
        kernel.interrupt()
        kernel.finish(cell)
        kernel.finish(behind)
        assert cell.error is not None
        assert cell.error["ename"] == "KeyboardInterrupt"
        assert "run the cell again to continue" in cell.stdout
        assert behind.status == "aborted"
        wait_for(lambda: all(row["active"] == 0 for row in client.ps()), "the requests to end")
        counts = kernel.value("lmnb.last_partial.attrs['lmnb']")
        assert 0 < counts["ok"] + counts["error"] < 400
        assert kernel.value("lmnb.last_partial.index.equals(df.index)")
