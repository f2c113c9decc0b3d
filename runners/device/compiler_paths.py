"""Paths with white space on the C++ compiler's command line, which Inductor quotes in part only.

torch 2.13 quotes the folders of headers and not those of libraries (`CppBuilder` in `torch/_inductor/cpp_builder.py`),
and splits the line as a shell would. Where torch or Python lies in `My Projects`, nothing compiles on a CPU then.
"""

from __future__ import annotations

import shlex
import sysconfig
from typing import Any

import torch


def quote_library_paths() -> None:
    """Have Inductor keep the folders of libraries whole, where that takes quotes. A second call does nothing."""
    if not any(letter.isspace() for letter in f"{torch.__file__}{sysconfig.get_config_var('LIBDIR')}"):
        return
    from torch._inductor import cpp_builder

    options: Any = cpp_builder.BuildOptionsBase
    if options.get_libraries_dirs is not _quoted:
        options.get_libraries_dirs = _quoted


def _quoted(options: Any) -> list[str]:
    return [shlex.quote(folder) for folder in options._libraries_dirs]
