"""typed.py SHELL SCRIPT FOLDER LINE: what an interactive shell on a terminal makes of LINE and a tab.

The shell runs in FOLDER and has read SCRIPT; a key that writes the line into a file tells what it has become.
"""
import os
import pty
import select
import sys
import tempfile
import time

shell, script, folder, line = sys.argv[1:]
RC = {
    # Ctrl-X Ctrl-P writes the line.
    "bash": """PS1='ready> '; . {script}
bind 'set bell-style none'; bind 'set completion-query-items 0'
bind -x '"\\C-x\\C-p": printf %s "$READLINE_LINE" >{out}.new && mv {out}.new {out}'
""",
    "zsh": """PS1='ready> '; autoload -Uz compinit; compinit -u -d {out}.dump; . {script}
put() {{ printf %s "$BUFFER" >{out}.new && mv {out}.new {out} }}
zle -N put; bindkey '^X^P' put
""",
}
ARGS = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"]}


def read_until(fd, text, seconds):
    """All that comes until text does."""
    got, end = b"", time.monotonic() + seconds
    while text not in got:
        if not select.select([fd], [], [], max(0, end - time.monotonic()))[0]:
            sys.exit(f"no {text!r} in {got!r}")
        got += os.read(fd, 4096)
    return got


with tempfile.TemporaryDirectory() as made:
    out, rc = f"{made}/line", f"{made}/rc"
    with open(rc, "w", encoding="utf-8") as f:
        f.write(RC[shell].format(script=script, out=out))
    pid, fd = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.environ["TERM"] = "xterm"
        os.environ["PS1"] = "$ "
        os.execvp(shell, [shell, *ARGS[shell]])
    os.write(fd, f". {rc}\r".encode())
    read_until(fd, b"ready> ", 30)
    os.write(fd, line.encode() + b"\t\x18\x10")
    end = time.monotonic() + 30
    while not os.path.exists(out) and time.monotonic() < end:
        if select.select([fd], [], [], 0.05)[0]:
            os.read(fd, 4096)
    os.close(fd)
    os.waitpid(pid, 0)
    with open(out, encoding="utf-8") as f:
        print(f.read().rstrip(" "))
