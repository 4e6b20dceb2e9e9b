#!/usr/bin/env bash
# demo.sh: the whole round, with a VM directory that it makes itself: pack, change, pack an increment, verify,
# restore, compare, export; then the same without tarvm. Works in a temporary directory, which KEEP=1 keeps.
# TARVM names the program (bin/tarvm). Needs Go; uses qemu-io, python3, zstd and tar where they are there.
set -euo pipefail
export LC_ALL=C
cd "$(dirname "$0")/.."
tarvm=$(realpath "${TARVM:-bin/tarvm}")
[ -x "$tarvm" ] || { echo "demo: no program at $tarvm: run make build" >&2; exit 1; }

work=$(mktemp -d "${TMPDIR:-/tmp}/tarvm-demo.XXXXXX")
finish() {
  local rc=$?
  if [ $rc != 0 ]; then
    printf '\ndemo: FAILED (exit %d) at: %s\n' $rc "${now:-the start}" >&2
  fi
  if [ "${KEEP:-}" = 1 ]; then
    echo "kept: $work"
  else
    rm -rf "$work"
  fi
}
trap finish EXIT
trap 'exit 130' INT TERM

say() { printf '\n# %s\n' "$@"; }
# sh runs a command line as a user would type it, after showing it.
sh() {
  now=$1
  printf '$ %s\n' "$1"
  bash -euo pipefail -c "$1" </dev/null
}
have() { command -v "$1" >/dev/null; }
# same A B: the same names, types and bytes, by diff and by SHA-256.
same() {
  sh "diff -r $1 $2"
  sum "$1" >"$work/sum.a"
  sum "$2" >"$work/sum.b"
  now="comparing the digests of $1 and $2"
  cmp "$work/sum.a" "$work/sum.b"
  echo "  $1 = $2: $(wc -l <"$work/sum.a") files, $(sha256sum <"$work/sum.a" | cut -c1-16)…"
}
sum() { (cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum); }

began=$SECONDS
now="making a VM directory"
go build -o "$work/synth" ./testdata/vm/synth
mkdir "$work/bin"
ln -s "$tarvm" "$work/bin/tarvm"
export PATH=$work/bin:$PATH
cd "$work"

say "A VM directory: a disk that grows, a memory image, configuration, a log."
./synth -o made -size "${SIZE:-256M}"
cp -a made/S1 web01
echo 'old log' >web01/vmware-0.log
cp -a web01 was-monday
sh "ls -l web01"

say "Pack it. The archive is an ordinary tar; its manifest stands beside it."
sh "tarvm pack web01 -o monday.tar.zst --note 'before the upgrade'"
sh "ls -l monday.tar.zst*"

say "The machine works for a day: its disk and memory change in place, a file goes, another comes."
for f in made/S2/*; do
  cat "$f" >"web01/${f##*/}"
  touch -r "$f" "web01/${f##*/}"
done
rm web01/vmware-0.log
echo 'snapshot.lastUID = "1"' >web01/vm.vmsd
if have qemu-io; then
  sh "qemu-io -f vmdk -c 'write -q -P 90 40M 192k' -c 'write -q -P 165 200M 1M' web01/vm.vmdk"
fi

say "The archive goes into the vault. For an increment, the parent's manifest is enough."
sh "mkdir vault; mv monday.tar.zst vault/"
sh "tarvm pack web01 -o tuesday.tar.zst --parent monday.tar.zst.manifest"
sh "ls -l vault/monday.tar.zst tuesday.tar.zst"
full=$(stat -c %s vault/monday.tar.zst) increment=$(stat -c %s tuesday.tar.zst)
now="comparing sizes: an increment of $increment bytes after a full of $full"
[ $((increment * 2)) -lt "$full" ]

say "What is in it?"
sh "tarvm show tuesday.tar.zst"
sh "tarvm list tuesday.tar.zst"
sh "tarvm diff vault/monday.tar.zst tuesday.tar.zst"

say "Is every byte there and right?"
sh "tarvm verify vault/monday.tar.zst tuesday.tar.zst"

say "Restore both days, and compare with what the machine was."
sh "tarvm unpack vault/monday.tar.zst -C monday"
same was-monday monday
sh "tarvm unpack tuesday.tar.zst -C tuesday --search vault"
same web01 tuesday
if have qemu-img; then
  sh "qemu-img check -q -f vmdk tuesday/vm.vmdk"
  sh "qemu-img compare -f vmdk -F vmdk web01/vm.vmdk tuesday/vm.vmdk"
fi

say "For another hypervisor: Tuesday's disk, out of the chain, without unpacking."
sh "tarvm image info tuesday.tar.zst:vm.vmdk --search vault"
sh "tarvm image convert tuesday.tar.zst:vm.vmdk vm.qcow2 -o compression=zstd,level=1 --search vault"
sh "tarvm image compare web01/vm.vmdk vm.qcow2"
if have qemu-img; then
  sh "qemu-img check -q vm.qcow2"
  sh "qemu-img compare -f vmdk -F qcow2 web01/vm.vmdk vm.qcow2"
fi
rm vm.qcow2

say "The whole machine for another hypervisor: an OVA, out of the chain, and back from it."
sh "tarvm export tuesday.tar.zst -o web01.ova --search vault"
sh "tar -tvf web01.ova"
sh "tarvm ovf verify web01.ova"
sh "tarvm ovf check web01.ova"
sh "tarvm import web01.ova -C imported --to vmx"
sh "ls -l imported"
sh "tarvm image compare web01/vm.vmdk imported/*.vmdk"
if have qemu-img; then
  sh "qemu-img compare -f vmdk -F vmdk web01/vm.vmdk imported/*.vmdk"
fi
rm -r web01.ova imported

say "A byte of the archive goes bad: that is noticed."
cp tuesday.tar.zst bad.tar.zst
printf '\xff\x00\xff\x00' | dd of=bad.tar.zst bs=1 seek=$((increment / 2)) conv=notrunc status=none
# shellcheck disable=SC2016 # the shown command line expands it
sh 'code=0; tarvm verify vault/monday.tar.zst bad.tar.zst || code=$?; echo "exit code $code"; [ $code = 4 ]'

say "And without tarvm?"
without=skipped
if have zstd && have tar; then
  sh "mkdir plain; zstd -dc vault/monday.tar.zst | tar -x -C plain"
  rm -rf plain/.tarvm
  same was-monday plain
  without="with tar and zstd: the full"
  if have python3; then
    sh "zstd -dc tuesday.tar.zst | tar -xOf - .tarvm/restore.py >restore.py"
    sh "python3 restore.py scripted vault/monday.tar.zst tuesday.tar.zst"
    same web01 scripted
    without="with tar, zstd and the script in the archive: the chain"
  else
    echo "python3 is missing: the increment is not restored by the archive's own script"
  fi
else
  echo "zstd or tar is missing: not tried"
fi

printf '\nDEMO PASSED in %d s: both days restored byte for byte (%s too).\n' $((SECONDS - began)) "$without"
