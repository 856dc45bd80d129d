#!/bin/sh
# Makes a small root file system for tests in a new folder: this machine's own
# shell and some of its programs, with the libraries that they need.
# test/rootfs/make.sh DIR [PROGRAM...]
set -eu
dir=$1
shift
mkdir -p "$dir"
cd "$dir"
chmod 755 .
mkdir -p bin dev etc lib proc root sys tmp usr var workspace
chmod 1777 tmp
ln -sfn ../bin usr/bin
for p in sh env head sleep cat nohup setsid pgrep true false echo ls id touch mkdir rm ln chmod chown dd stat \
	seq wc sort grep kill ps tr cut printf mknod df readlink find cp mv sync hostname mount umount timeout "$@"; do
	file=$(command -v "$p") || continue
	case $file in /*) ;; *) file=$(command -v "/bin/$p" || command -v "/usr/bin/$p") || continue ;; esac
	file=$(readlink -f "$file")
	cp "$file" "bin/${p##*/}"
	chmod 755 "bin/${p##*/}"
	for lib in $(ldd "$file" 2>/dev/null | grep -o '/[^ )]*'); do
		[ -e ".$lib" ] && continue
		mkdir -p ".${lib%/*}"
		cp -L "$lib" ".$lib"
	done
done
printf 'root:x:0:0::/root:/bin/sh\nstep:x:1000:1000::/workspace:/bin/sh\n' >etc/passwd
printf 'root:x:0:\nstep:x:1000:\n' >etc/group
