# Shows a machine the host's files as one tree, in a mount namespace of its own, and serves that tree.
# What may not be written is read-only here already. `cache=always`: else a program is read anew, and
# QEMU translates it anew, whenever it is started, which then takes 7 times as long.
tree=$1/tree
mount -t tmpfs memory "$tree"
mkdir "$tree/root" "$tree/modules" "$tree/folder" "$tree/run"
mount --bind / "$tree/root"
mount -o remount,bind,ro "$tree/root"
mount --bind "$2" "$tree/modules"
mount -o remount,bind,ro "$tree/modules"
mount --bind "$3" "$tree/folder"
mount -o remount,bind,ro "$tree/folder"
mount --bind "$1/run" "$tree/run"
exec "$4" --socket-path="$1/socket" -o source="$tree" -o cache=always
