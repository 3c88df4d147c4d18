# What a machine runs once it has its files: the command, then its end.
: >/run/vm/run/started
(
    . /run/vm/run/settings
    cd "$folder" || exit 125
    # Not busybox's shell, which would prefer its own commands.
    exec /run/busybox setsid /bin/sh /run/vm/run/command
) </dev/null >/run/vm/run/output 2>&1
echo $? >/run/vm/run/status
/run/busybox sync
/run/busybox poweroff -f
