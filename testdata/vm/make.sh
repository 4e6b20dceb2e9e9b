#!/usr/bin/env bash
# make.sh OUT
#
# Makes a virtual machine's directory at three moments of its life, OUT/S1, OUT/S2 and OUT/S3, each with vm.vmx,
# vm.nvram, vm.vmdk (monolithicSparse, written in place from state to state), vm.vmem and vmware.log:
#
#   S1  a Debian that was just installed and has booted
#   S2  packages installed from its own cache and used, files written, changed and deleted
#   S3  after a restart: packages removed, a database and large files written, others deleted
#
# The best way that this machine offers is taken, and said:
#
#   booted     a guest runs under QEMU (KVM or emulation) and changes its disk itself; vm.vmem is its memory.
#              Needs root, mmdebstrap and a Debian mirror, qemu-system-x86_64, qemu-img, mkfs.ext4, sfdisk, Go.
#   offline    the file system is mounted here and changed (needs a loop device); vm.vmem is synthetic.
#   synthetic  no guest at all: testdata/vm/synth. Needs Go only.
#
# Environment: SYNTHETIC=1 or OFFLINE=1 to choose; SIZE=4G of the disk; MEM=512 MiB of memory; SUITE=bookworm;
# MIRROR (default: this machine's); BOOT_TIMEOUT=900 seconds for each thing that a guest is to do.
# A state that is there already is replaced only if it was made here.
set -euo pipefail
export LC_ALL=C
[ $# = 1 ] || { sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
mkdir -p "$1"
out=$(realpath "$1")
cd "$(dirname "$0")/../.."
size=${SIZE:-4G} mem=${MEM:-512} suite=${SUITE:-bookworm} wait=${BOOT_TIMEOUT:-900}
uuid=7d2c9a46-1b1e-4c1d-8a55-0f6d3e2b9c11

say() { printf 'make.sh: [%4d s] %s\n' $SECONDS "$*" >&2; }
die() { say "$*"; exit 1; }

synthetic() {
  say "SYNTHETIC machine: $1"
  go run ./testdata/vm/synth -o "$out" -size "$size"
  exit 0
}

[ "${SYNTHETIC:-}" != 1 ] || synthetic "asked for"
[ "$(id -u)" = 0 ] || synthetic "a real one needs root"
for t in mmdebstrap qemu-img mkfs.ext4 sfdisk chroot mount; do
  command -v $t >/dev/null || synthetic "a real one needs $t"
done
if [ ! -e "$out/.made-for-measuring" ]; then
  for s in S1 S2 S3; do
    [ ! -e "$out/$s" ] || die "$out/$s exists and was not made here: nothing is replaced"
  done
  : >"$out/.made-for-measuring"
fi

work=$out/.work root=$out/.work/root
qemu='' loop=''
# shellcheck disable=SC2317 # the trap calls it
cleanup() {
  set +e
  [ -z "$qemu" ] || kill "$qemu" 2>/dev/null
  for m in "$work/mnt" "$root/proc"; do
    mountpoint -q "$m" 2>/dev/null && umount "$m"
  done
  [ -z "$loop" ] || losetup -d "$loop"
  mountpoint -q "$work/mnt" 2>/dev/null || mountpoint -q "$root/proc" 2>/dev/null || rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
rm -rf "$work"
mkdir -p "$work/mnt"

#--- the tree -------------------------------------------------------------------
packages=linux-image-amd64,python3-minimal,openssh-server,ca-certificates,curl,vim,less,file,locales,dbus
later="apache2 sqlite3 git php-cli"
source=${MIRROR:+deb $MIRROR $suite main}
say "installing Debian $suite into a directory"
# Without MIRROR and source, mmdebstrap takes deb.debian.org and its security archive.
if ! mmdebstrap --quiet --mode=root --variant=important --dpkgopt=force-unsafe-io --include=$packages \
  --customize-hook="printf '#!/bin/sh\nexit 101\n' >\"\$1/usr/sbin/policy-rc.d\"; chmod 755 \"\$1/usr/sbin/policy-rc.d\"" \
  --customize-hook="mkdir -p \"\$1/var/cache/later/partial\"; chroot \"\$1\" apt-get -q -y -o Dir::Cache::archives=/var/cache/later/ --no-install-recommends --download-only install $later" \
  --skip=cleanup/apt "$suite" "$root" ${source:+"$source"} >"$work/mmdebstrap.log" 2>&1 </dev/null; then
  tail -5 "$work/mmdebstrap.log" >&2
  synthetic "mmdebstrap did not succeed (no mirror?)"
fi
rm -f "$root/usr/sbin/policy-rc.d"
ls "$root"/var/cache/later/*.deb >/dev/null || synthetic "the packages of S2 could not be fetched"

echo "UUID=$uuid / ext4 errors=remount-ro 0 1" >"$root/etc/fstab"
echo web01 >"$root/etc/hostname"
echo "127.0.0.1 localhost web01" >"$root/etc/hosts"
echo 'force-unsafe-io' >"$root/etc/dpkg/dpkg.cfg.d/unsafe"
ln -sf /dev/null "$root/etc/systemd/system/apt-daily.timer"
ln -sf /dev/null "$root/etc/systemd/system/apt-daily-upgrade.timer"

# What happens in the guest. Everything comes from the disk itself: the guest has no network.
cat >"$root/usr/local/sbin/life" <<'LIFE'
#!/bin/sh
# life 2|3: does what happens before that state.
set -eu
export DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
blob() { head -c "$2" /dev/zero | openssl enc -aes-128-ctr -pass "pass:$1" -nosalt -pbkdf2 -iter 1; }
case $1 in
2)
  apt-get -q -y --no-install-recommends install /var/cache/later/*.deb
  mkdir -p /srv/data
  for i in $(seq 600); do
    head -c $((i * 37 % 60000)) /usr/share/common-licenses/GPL-3 | tail -c +$i >/srv/data/note$i.txt
  done
  blob two 80000000 >/srv/data/two.bin
  cp -r /usr/share/vim /srv/data/copy
  rm -rf /usr/share/doc/[a-m]*
  ;;
3)
  apt-get -q -y purge vim vim-runtime
  rm -rf /var/cache/later
  seq 400000 | awk '{ printf "insert into item values (%d, %d, \"item %d of shelf %d\");\n", $1, $1 * 7919 % 100003, $1, $1 % 977 }' |
    (echo 'create table item (id integer primary key, n integer, t text); begin;'; cat; echo 'commit; update item set n = n + 1 where id % 50 = 0;') |
    sqlite3 /srv/data/shop.db
  seq 600000 | awk '{ printf "2024-03-03 %02d:%02d:%02d web01 app: user=%d status=200 latency=%d\n", $1 / 3600 % 24, $1 / 60 % 60, $1 % 60, $1 * 7919 % 100003, $1 * 31 % 5003 }' >/srv/data/app.log
  rm /srv/data/two.bin
  blob three 50000000 >/srv/data/three.bin
  git init -q /srv/data/repo && cp -r /etc /srv/data/repo/ && git -C /srv/data/repo add . && git -C /srv/data/repo -c user.name=x -c user.email=x@x commit -q -m all
  ;;
esac
sync
LIFE
# The host asks on the second serial port for a state, and is told there when it is reached.
cat >"$root/usr/local/sbin/obey" <<'OBEY'
#!/bin/sh
exec <>/dev/ttyS1 >&0
stty -echo raw
echo READY
while read -r n; do
  if /usr/local/sbin/life "$n" >"/var/log/life$n.log" 2>&1; then echo "DONE $n"; else echo "FAILED $n"; tail -3 "/var/log/life$n.log"; fi
done
OBEY
chmod 755 "$root"/usr/local/sbin/*
cat >"$root/etc/systemd/system/obey.service" <<'UNIT'
[Unit]
Description=does what the host asks for
[Service]
ExecStart=/usr/local/sbin/obey
TimeoutStopSec=5
[Install]
WantedBy=multi-user.target
UNIT
ln -s ../obey.service "$root/etc/systemd/system/multi-user.target.wants/obey.service"

#--- the disk ---------------------------------------------------------------------
say "making the disk"
raw=$work/vm.raw vmdk=$work/vm.vmdk
truncate -s "$size" "$raw"
sfdisk -q "$raw" <<<$'label: dos\nlabel-id: 0x5a3c1e71\nstart=2048, type=83, bootable'
blocks=$((($(stat -c %s "$raw") - (1 << 20)) / 4096))
mkfs.ext4 -q -F -L root -U $uuid -E offset=$((1 << 20)) -b 4096 -d "$root" "$raw" $blocks
qemu-img convert -f raw -O vmdk -o subformat=monolithicSparse,adapter_type=lsilogic "$raw" "$vmdk"
cp -L "$root/vmlinuz" "$work/vmlinuz"
cp -L "$root/initrd.img" "$work/initrd"
go build -o "$work/synth" ./testdata/vm/synth
go build -o "$work/graft" ./testdata/vm/graft

# state N: copies the disk as OUT/SN and makes what surrounds it. The configuration, log and firmware settings
# are a synthetic machine's, and so is the memory as long as nobody puts a better one there.
state() {
  local n=$1 i
  [ -d "$work/around" ] || "$work/synth" -o "$work/around" -size "${mem}M" -mem "${mem}M" -fill 0.1
  rm -rf "${out:?}/S$n"
  mkdir "$out/S$n"
  for i in vm.vmx vm.nvram vmware.log vm.vmem; do
    mv "$work/around/S$n/$i" "$out/S$n/$i"
  done
  cp --sparse=always "$vmdk" "$out/S$n/vm.vmdk"
  say "S$n: $(du -m "$out/S$n/vm.vmdk" | cut -f1) MB of disk"
}

#--- with a guest -------------------------------------------------------------------
# hmp COMMAND...: gives commands to QEMU's monitor, and waits until the last one is done.
hmp() {
  local n
  n=$(grep -ac "^$uuid" "$work/monitor.log" || true)
  printf '%s\n' "$@" 'info uuid' >"$work/monitor.in"
  for _ in $(seq 3000); do
    [ "$(grep -ac "^$uuid" "$work/monitor.log" || true)" = "$n" ] || return 0
    kill -0 "$qemu" 2>/dev/null || return 1
    sleep .1
  done
  return 1
}
# expect LINE: waits until the guest has said it since it was last started.
expect() {
  local until=$((SECONDS + wait))
  while ! grep -aq "^$1" "$work/guest.log"; do
    if grep -a -A3 '^FAILED' "$work/guest.log" >&2; then return 1; fi
    kill -0 "$qemu" 2>/dev/null || { say "QEMU has ended: $(tail -1 "$work/qemu.log")"; return 1; }
    [ $SECONDS -lt $until ] || { say "no '$1' from the guest within $wait s; its console ends: $(tail -c 300 "$work/console.log" | tr -d '\r')"; return 1; }
    sleep .5
  done
}
boot() {
  local accel=(-accel 'tcg,thread=multi' -cpu max)
  if [ -w /dev/kvm ] && grep -qwE 'vmx|svm' /proc/cpuinfo; then
    accel=(-accel kvm -cpu host)
  fi
  rm -f "$work"/{monitor,guest}.{in,out}
  mkfifo "$work"/{monitor,guest}.{in,out}
  qemu-system-x86_64 -name web01 -uuid $uuid -machine pc "${accel[@]}" -smp 2 -m "$mem" -nodefaults -no-user-config -display none \
    -kernel "$work/vmlinuz" -initrd "$work/initrd" -append "root=UUID=$uuid ro console=ttyS0 systemd.default_timeout_start_sec=$wait" \
    -drive "if=virtio,format=vmdk,file=$vmdk" -device virtio-rng-pci \
    -serial "file:$work/console.log" -chardev "pipe,id=g,path=$work/guest" -serial chardev:g \
    -chardev "pipe,id=m,path=$work/monitor" -mon chardev=m,mode=readline >"$work/qemu.log" 2>&1 </dev/null &
  qemu=$!
  : >"$work/monitor.log"
  : >"$work/guest.log"
  cat "$work/monitor.out" >"$work/monitor.log" &
  cat "$work/guest.out" >"$work/guest.log" &
  expect READY
}
# freeze N: the guest stands still while its memory and disk are copied, as for a snapshot.
freeze() {
  hmp stop || return 1
  state "$1"
  hmp "pmemsave 0 $((mem << 20)) \"$work/mem\"" || return 1
  [ "$(stat -c %s "$work/mem")" = $((mem << 20)) ] || return 1
  mv "$work/mem" "$out/S$1/vm.vmem"
  hmp cont
}
ask() { echo "$1" >"$work/guest.in" && expect "DONE $1"; }
# The guest is not shut down in order: systemd would take minutes under emulation, and crashes happen.
stop() {
  echo quit >"$work/monitor.in"
  wait "$qemu" || true
  qemu=''
}
booted() {
  command -v qemu-system-x86_64 >/dev/null || { say "qemu-system-x86_64 is missing"; return 1; }
  say "booting the guest"
  boot || return 1
  freeze 1 || return 1
  say "S2 happens in the guest"
  ask 2 && freeze 2 || return 1
  say "the guest is started again, and S3 happens"
  hmp "" || return 1
  stop
  boot && ask 3 && freeze 3 || return 1
  stop
}

#--- without ----------------------------------------------------------------------------
offline() {
  local n
  state 1
  for n in 2 3; do
    loop=$(losetup -f --show -o $((1 << 20)) "$raw") || return 1
    mount "$loop" "$work/mnt" || return 1
    mount -t proc proc "$work/mnt/proc" || true
    printf '#!/bin/sh\nexit 101\n' >"$work/mnt/usr/sbin/policy-rc.d"
    chmod 755 "$work/mnt/usr/sbin/policy-rc.d"
    if ! chroot "$work/mnt" /usr/local/sbin/life $n >"$work/life.log" 2>&1 </dev/null; then
      tail -3 "$work/life.log" >&2
      umount "$work/mnt/proc" || true
      return 1
    fi
    rm -f "$work/mnt/usr/sbin/policy-rc.d"
    umount "$work/mnt/proc" || true
    umount "$work/mnt" || return 1
    losetup -d "$loop"
    loop=''
    "$work/graft" "$raw" "$vmdk"
    state $n
  done
}

if [ "${OFFLINE:-}" != 1 ]; then
  cp --sparse=always "$vmdk" "$work/installed.vmdk"
  if booted; then
    say "done: a guest that ran, with its memory"
    exit 0
  fi
  [ -z "$qemu" ] || { kill "$qemu" 2>/dev/null || true; wait "$qemu" 2>/dev/null || true; qemu=''; }
  mv "$work/installed.vmdk" "$vmdk"
  rm -rf "$work/around"
fi
say "OFFLINE: no guest runs; the file system is changed from here, and vm.vmem is synthetic"
if offline; then
  say "done: a real disk, changed offline, with synthetic memory"
  exit 0
fi
synthetic "the file system could not be changed offline either"
