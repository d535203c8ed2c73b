"""Print a script that completes commands, flags, keys and names with Tab in bash or zsh.

It completes `python -m zoo_exp` and `zoo-exp`. The names are those that exist when the script is printed: with
--config-dir DIR, your own experiments are among them.

Examples:
  python -m zoo_exp completion bash >> ~/.bashrc
  python -m zoo_exp completion zsh >> ~/.zshrc
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from zoo_exp._cli.run import add_config_dir
from zoo_exp.errors import UnknownNameError

SHELLS = ("bash", "zsh")
FIRST = {
    "list": ("selectors", "tasks", "models", "exps", "runs"),
    "completion": SHELLS,
    "check": ("selector",),
}
"""Command -> what its first argument may be."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("shell", metavar="bash|zsh")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    add_config_dir(parser)
    parser.set_defaults(handler=completion)


def completion(args: argparse.Namespace) -> int:
    """Print the script."""
    from zoo_exp.config.folders import search_path

    if args.shell not in SHELLS:
        raise UnknownNameError("shell", args.shell, SHELLS)
    found = words(args.commands, search_path(args.config_dir))
    print((BASH if args.shell == "bash" else ZSH).replace("@TABLES@", _tables(found)), end="")
    return 0


def words(commands: Mapping[str, Any], folders: Sequence[Path]) -> dict[str, list[str]]:
    """What may be completed, by place: `commands`, `keys`, `=KEY` (values of a key), `-COMMAND` (flags), `COMMAND`."""
    from zoo_exp import selectors, tasks
    from zoo_exp.config.folders import choices
    from zoo_exp.config.overrides import WORDS
    from zoo_exp.config.schema import RunConfig

    keys = [*_keys(RunConfig), *(f"{word}=" for word in WORDS)]
    found: dict[str, list[str]] = {"commands": list(commands), "keys": keys}
    for key in ("exp", "model", "data", "trainer", "engine", "logger"):
        found[f"={key}"] = list(choices(key, folders))
    found["=selector"] = list(dict.fromkeys([*choices("selector", folders), *selectors.available()]))
    found["=task"] = list(dict.fromkeys([*choices("task", folders), *tasks.available()]))
    for name, module in commands.items():
        parser = argparse.ArgumentParser(add_help=True)
        module.add_arguments(parser)
        flags = [flag for action in parser._actions for flag in action.option_strings]
        found[f"-{name}"] = [flag for flag in flags if flag.startswith("--")]
        if any(action.dest == "overrides" for action in parser._actions):
            found[f"+{name}"] = []
        if name in FIRST:
            found[name] = list(FIRST[name])
    found["score"] = found["=task"]
    return found


def _keys(schema: Any, above: str = "") -> Iterator[str]:
    """Dotted keys of the schema, each with its equals sign."""
    for item in fields(schema):
        factory: Any = item.default_factory
        if item.name in ("arms", "budgets", "tasks", "sweep"):
            continue
        yield f"{above}{item.name}="
        if is_dataclass(factory):
            yield from _keys(factory, f"{above}{item.name}.")


def _tables(found: Mapping[str, Sequence[str]]) -> str:
    """One line per place for a `case` of the shell; names are printable words without quotes."""
    lines = []
    for place, names in found.items():
        safe = sorted({name for name in names if name and all(c.isalnum() or c in "._-=+" for c in name)})
        lines.append(f"    '{place}') echo '{' '.join(safe)}' ;;")
    return "\n".join(lines)


_TABLE = """# Words that zoo_exp knows, by place; fails for a place that it does not know.
_zoo_exp_words() {
  case "$1" in
@TABLES@
    *) return 1 ;;
  esac
}
"""
BASH = (
    _TABLE
    + """
_zoo_exp() {
  local line=${COMP_LINE:0:COMP_POINT} cur words command word value head piece known strip
  COMPREPLY=()
  cur=${line##*[[:space:]]}
  read -ra words <<< "${line%"$cur"}"
  case "${words[0]}" in
    *python*) [[ ${words[1]} == -m && ${words[2]} == zoo_exp ]] || return 0; words=("${words[@]:3}") ;;
    *) words=("${words[@]:1}") ;;
  esac
  command=${words[0]}
  if [[ -z $command ]]; then
    known=$(_zoo_exp_words commands)
  elif [[ $cur == -* ]]; then
    known=$(_zoo_exp_words "-$command")
  elif [[ $cur == *=* ]]; then
    value=${cur##*=} word=${cur%%=*}
    piece=${value##*[\\[,]} head=${value%"$piece"}
    for word in $(_zoo_exp_words "=${word##+}"); do
      [[ $word == "$piece"* ]] && COMPREPLY+=("$head$word")
    done
    return 0
  elif [[ ${#words[@]} == 1 ]] && _zoo_exp_words "$command" > /dev/null; then
    known=$(_zoo_exp_words "$command")
  elif _zoo_exp_words "+$command" > /dev/null; then
    known=$(_zoo_exp_words keys)
    [[ $cur == +* ]] && known="+exp="
    compopt -o nospace 2> /dev/null
  fi
  for word in $known; do
    [[ $word == "$cur"* ]] && COMPREPLY+=("$word")
  done
}
complete -o default -o bashdefault -F _zoo_exp zoo-exp python python3
"""
)
ZSH = (
    "#compdef zoo-exp\n"
    + _TABLE
    + """
_zoo_exp() {
  local command key
  if [[ $service == python* ]]; then
    if [[ ${words[2]} != -m || ${words[3]} != zoo_exp ]]; then
      (( $+functions[_python] )) && { _python; return }
      _default; return
    fi
    shift 2 words; (( CURRENT -= 2 ))
  fi
  command=${words[2]}
  if (( CURRENT == 2 )); then
    compadd -- ${=$(_zoo_exp_words commands)}
  elif [[ $PREFIX == -* ]]; then
    compadd -- ${=$(_zoo_exp_words -$command)}
  elif [[ $PREFIX == *=* ]]; then
    key=${${PREFIX%%=*}#+}
    compset -P '*[=\\[,]'
    compadd -S '' -- ${=$(_zoo_exp_words =$key)} || _files
  elif (( CURRENT == 3 )) && _zoo_exp_words $command > /dev/null; then
    compadd -- ${=$(_zoo_exp_words $command)}
  elif _zoo_exp_words +$command > /dev/null; then
    compadd -S '' -- +exp= ${=$(_zoo_exp_words keys)}
    _files
  else
    _files
  fi
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -u }
compdef _zoo_exp zoo-exp python python3
"""
)
