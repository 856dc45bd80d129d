#!/bin/sh
# image.sh PROGRAMS FOLDER
#
# Makes FOLDER/root.img, vmlinuz and initrd.img: a Debian for machines that exist
# for one step, see README.md. PROGRAMS is a folder that "make install" has filled
# (make install DESTDIR=PROGRAMS, with the development files of LXC).
#
# The packages are from where this machine's apt has its own, once "apt-get update"
# was run. Of them FOLDER keeps base.tar and step.tar, and makes the next image of
# them, for newer programs; remove them to get newer packages.
#
#   STEP="gcc libc6-dev make"  what the steps' root file system, the image
#                              "debian", has besides Debian's required packages
#   MACHINE="ceph-common"      what the machine itself has besides
#   SIZE=4G                    the size of the disk, which is sparse
#
# Run it as root, with mmdebstrap, e2fsprogs and liblxc1 installed.
set -eu
programs=$1 folder=$2
here=$(dirname "$0")
case $(dpkg --print-architecture) in
amd64 | arm64) kernel=linux-image-cloud-$(dpkg --print-architecture) ;;
*) kernel=linux-image-$(dpkg --print-architecture) ;;
esac
machine=systemd-sysv,systemd-resolved,dbus,udev,kmod,$kernel,cloud-init,lxc,git,nfs-common,ca-certificates
test -x "$programs/usr/local/bin/distci-claim" || { echo "image.sh: $programs has no usr/local/bin/distci-claim: make install DESTDIR=$programs" >&2; exit 1; }

umask 022
mkdir -p "$folder"
work=$(mktemp -d "$folder/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

# The lines of sources.list that give Debian's packages, however they are written here.
sources() {
	# shellcheck disable=SC2016 # for apt
	apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' | sort -u
}
suite() { sed -n 's/^VERSION_CODENAME=//p' /etc/os-release; }

# bootstrap NAME PACKAGES [OPTION...] makes an archive, unless it is there.
bootstrap() {
	name=$1 packages=$2
	shift 2
	[ ! -f "$folder/$name.tar" ] || return 0
	sources | mmdebstrap --variant=minbase --include="$packages" "$@" "$(suite)" "$work/$name.tar" -
	mv "$work/$name.tar" "$folder/$name.tar"
}
bootstrap base "$machine ${MACHINE:-}" --dpkgopt='path-exclude=/usr/share/doc/*' \
	--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*'
bootstrap step "ca-certificates ${STEP:-}"

root=$work/root
mkdir "$root"
tar -C "$root" --xattrs --xattrs-include='*' --numeric-owner -xpf "$folder/base.tar"
cp -a "$programs/." "$root/"
cp "$here/distci-claim-once.service" "$root/etc/systemd/system/"
"$programs/usr/local/bin/distci-lxc" image import debian "$folder/step.tar" --images "$root/var/lib/distci/images" >/dev/null

# A machine gets its identity and its name when it starts.
: >"$root/etc/machine-id"
rm -f "$root/etc/hostname"
echo 'locale: C.UTF-8' >"$root/etc/cloud/cloud.cfg.d/90-distci.cfg"
# cloud-init configures the network for systemd-networkd.
ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
ln -sf /lib/systemd/system/systemd-networkd.service "$root/etc/systemd/system/multi-user.target.wants/"
echo '/dev/vda / ext4 rw,discard,errors=remount-ro 0 1' >"$root/etc/fstab"

cp "$root"/boot/vmlinuz-* "$folder/vmlinuz.new"
cp "$root"/boot/initrd.img-* "$folder/initrd.img.new"
rm -f "$root"/boot/vmlinuz-* "$root"/boot/initrd.img-*
mke2fs -q -t ext4 -L distci -d "$root" "$work/root.img" "${SIZE:-4G}"
mv "$folder/vmlinuz.new" "$folder/vmlinuz"
mv "$folder/initrd.img.new" "$folder/initrd.img"
mv "$work/root.img" "$folder/root.img"
