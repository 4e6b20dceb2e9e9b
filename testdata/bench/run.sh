#!/usr/bin/env bash
# run.sh: tarvm and the tools that people would take instead, side by side in one run.
#
# Every group of rows is measured RUNS (3) times in turn, A B C A B C, so that a slow minute of the machine meets
# all of them; what counts are ratios of medians within a group. Two workers on at most two processors, warm
# cache, output synced before the next run begins. Every restore is compared with its source once.
#
# stdout gets Markdown tables, OUT (bin/bench.tsv) each run: group, tool, run, wall, user, sys, KiB, bytes.
#
#   VM=/var/tmp/vm   the states S1, S2, S3; made by testdata/vm/make.sh when they are not there; never written to
#   TARVM=bin/tarvm  without it, the rows of the others are measured alone
#   RUNS=3  ONLY=regex of group/tool  SLOW=1 (xz, too)  LEVELS="1 3 6 9" of zstd  SCRATCH=/var/tmp
set -uo pipefail
export LC_ALL=C
cd "$(dirname "$0")/../.." || exit 1
VM=${VM:-/var/tmp/vm} RUNS=${RUNS:-3} ONLY=${ONLY:-.} SLOW=${SLOW:-0} LEVELS=${LEVELS:-1 3 6 9} OUT=${OUT:-bin/bench.tsv}
die() { echo "bench: $*" >&2; exit 1; }
say() { echo "bench: $*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

if [ ! -e "$VM/S1" ] || [ ! -e "$VM/S2" ] || [ ! -e "$VM/S3" ]; then
  say "no S1, S2, S3 in $VM: making them"
  testdata/vm/make.sh "$VM" || die "no VM to measure with"
fi
VM=$(realpath "$VM")
mkdir -p "$(dirname "$OUT")"
OUT=$(realpath "$OUT")
T=$(mktemp -d "${SCRATCH:-/var/tmp}/tarvm-bench.XXXXXX") || exit 1
trap 'chmod -R u+w "$T"; rm -rf "$T"' EXIT
trap 'exit 130' INT TERM
go build -o "$T/measure" ./testdata/bench/measure || die "needs Go"
tarvm=$(realpath "${TARVM:-bin/tarvm}" 2>/dev/null)
if [ -n "$tarvm" ] && [ -x "$tarvm" ]; then
  mkdir "$T/bin" && ln -s "$tarvm" "$T/bin/tarvm"
  PATH=$T/bin:$PATH
else
  say "NO TARVM at ${TARVM:-bin/tarvm} (make build): only the others are measured"
fi
export XDG_CONFIG_HOME=$T/config XDG_STATE_HOME=$T/state
export RESTIC_PASSWORD=x RESTIC_CACHE_DIR=$T/restic-cache GOMAXPROCS=2
export BORG_RELOCATED_REPO_ACCESS_IS_OK=yes BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes
pin=()
if [ "$(nproc)" -gt 2 ] && have taskset; then
  pin=(taskset -c "0,1")
fi

#--- rows ------------------------------------------------------------------------
group='' tools=() paths=() preps=() cmds=() checks=() onces=()
declare -A missing
group() { group=$1 tools=() paths=() preps=() cmds=() checks=() onces=(); }

# row TOOL CMD [PATHS [PREP [CHECK [once]]]]: CMD is timed; PREP comes before each run and CHECK after the first, not
# timed; what PATHS grow by is the size. The first word of TOOL must be a program.
row() {
  local program=${1%% *}
  [[ "$group/$1" =~ $ONLY ]] || return 0
  if ! have "$program"; then
    [ -n "${missing[$program]:-}" ] || say "SKIPPED everywhere: $program is not installed"
    missing[$program]=1
    return 0
  fi
  tools+=("$1") cmds+=("$2") paths+=("${3:-}") preps+=("${4:-:}") checks+=("${5:-}") onces+=("${6:-}")
}
bytes() {
  local s=0 p
  for p in "$@"; do
    [ ! -e "$p" ] || s=$((s + $(du -s --apparent-size -B1 "$p" | cut -f1)))
  done
  echo $s
}

# warm reads the states, so that they are in memory.
warm() {
  local s
  for s in "$VM"/S[123] "$T/S4"; do
    [ ! -d "$s" ] || cat "$s"/* >/dev/null
  done
}

# measured: runs the group's rows in turn, and prints its table.
measured() {
  local i run before size rc table=$T/table note
  local -A failed=()
  [ ${#tools[@]} != 0 ] || return 0
  : >"$table"
  for run in $(seq "$RUNS"); do
    for i in "${!tools[@]}"; do
      [ -z "${failed[$i]:-}" ] || continue
      [ "$run" = 1 ] || [ -z "${onces[$i]}" ] || continue
      (set -e; eval "${preps[$i]}") >"$T/log" 2>&1 # not within a condition: that would undo set -e
      rc=$?
      if [ $rc != 0 ]; then
        failed[$i]="its preparation"
      else
        # shellcheck disable=SC2086 # a list of paths
        before=$(bytes ${paths[$i]})
        sync -f "$T"
        warm # again, as some systems give back memory of files that nobody has read for seconds
        # A hypervisor takes back memory that was freed, and giving it again is slow: whoever comes first would pay.
        dd if=/dev/zero of=/dev/null bs=1G count=1 status=none
        "${pin[@]}" "$T/measure" "$T/took" bash -c "set -eo pipefail; ${cmds[$i]}" >"$T/log" 2>&1 </dev/null
        rc=$?
        # shellcheck disable=SC2086
        size=$(($(bytes ${paths[$i]}) - before))
        if [ $rc != 0 ]; then
          failed[$i]="exit $rc"
        elif [ "$run" = 1 ] && [ -n "${checks[$i]}" ] && ! bash -c "${checks[$i]}" >"$T/log" 2>&1; then
          failed[$i]="WRONG RESULT"
        else
          printf '%s\t%s\t%d\t%s\t%d\n' "$group" "${tools[$i]}" "$run" "$(tr ' ' '\t' <"$T/took")" $size >>"$OUT"
          printf '%d\t%s\t%d\n' "$i" "$(tr ' ' '\t' <"$T/took")" $size >>"$table"
        fi
      fi
      if [ -n "${failed[$i]:-}" ]; then
        say "FAILED: $group/${tools[$i]}: ${failed[$i]}: $(tail -n 3 "$T/log" | tr '\n' ' ')"
        printf '%s\t%s\t%d\tFAILED\t%s\n' "$group" "${tools[$i]}" "$run" "${failed[$i]}" >>"$OUT"
      else
        say "$group/${tools[$i]}, run $run: $(cut -d' ' -f1 <"$T/took") s"
      fi
    done
  done
  printf '\n### %s\n\n| tool | s, median | to the first | MB | to the first | peak MiB |\n|---|--:|--:|--:|--:|--:|\n' "$group"
  for i in "${!tools[@]}"; do
    note=''
    [ -z "${failed[$i]:-}" ] || note="FAILED: ${failed[$i]}"
    sort -n -k2,2 "$table" | awk -F '\t' -v i="$i" -v tool="${tools[$i]}" -v note="$note" -v base="$T/base" '
      BEGIN { if ((getline line <base) > 0) { split(line, b, " ") } }
      $1 == i { w[++n] = $2; size = $6; if ($5 > rss) rss = $5 }
      END {
        gsub(/\|/, "\\|", tool)
        if (note != "") { printf "| %s | %s | | | | |\n", tool, note; exit }
        m = n % 2 ? w[(n + 1) / 2] : (w[n / 2] + w[n / 2 + 1]) / 2
        if (b[1] == "") { b[1] = m; b[2] = size; printf "%f %d\n", m, size >base }
        printf "| %s | %.2f | %.2f | %s | %s | %.0f |\n", tool, m, b[1] ? m / b[1] : 0,
          size ? sprintf("%.1f", size / 1e6) : "", size && b[2] ? sprintf("%.2f", size / b[2]) : "", rss / 1024
      }'
  done
  rm -f "$T/base"
}

# once NAME COMMAND...: runs the command the first time that the name is asked for.
once() {
  [ ! -e "$T/did.$1" ] || return 0
  "${@:2}" || { say "could not prepare $1"; return 1; }
  : >"$T/did.$1"
}

#--- what rows build on ------------------------------------------------------------
# S4 is S3 after a few minutes: 64 places of the disk, 2 of each 64 KiB, and one of the log.
make_s4() {
  cp -r --sparse=always --preserve=all "$VM/S3" "$T/S4" || return 1
  local disk=$T/S4/vm.vmdk i n
  n=$(($(stat -c %s "$disk") / 4096))
  for i in $(seq 64); do
    head -c 8192 /dev/urandom | dd of="$disk" bs=4096 seek=$((n / 4 + i * (n / 2 / 64))) conv=notrunc status=none || return 1
  done
  echo "a line more" >>"$T/S4/vmware.log"
}
dir() {
  if [ "$1" = S4 ]; then
    once S4 make_s4 >&2 || return 1
    echo "$T/S4"
  else
    echo "$VM/$1"
  fi
}
before() { echo "S$((${1#S} - 1))"; }

# pack STATE [PARENT] puts the state into T/cSTATE.tar.zst.
pack() {
  local d
  d=$(dir "$1") && tarvm pack "$d" -o "$T/c$1.tar.zst" --workers 2 ${2:+--parent "$T/c$2.tar.zst.manifest"}
}
chain() { once packS1 pack S1 && once packS2 pack S2 S1 && once packS3 pack S3 S2 && once packS4 pack S4 S3; }
pack_full4() { dir S4 >/dev/null && tarvm pack "$T/S4" -o "$T/full4.tar.zst" --workers 2; }
full4() { once full4 pack_full4; }
pack_tar4() { dir S4 >/dev/null && tar -cf - -C "$T/S4" . | zstd -q -T2 -3 -o "$T/tar4.tar.zst"; }
tar4() { once tar4 pack_tar4; }

# The next three make a repository with the states up to STATE, as T/PROGRAM.STATE, from the one before it. Runs
# start from a copy.
restic_at() { # STATE
  local r=$T/restic.$1 d
  [ ! -d "$r" ] || return 0
  rm -rf "$r.new"
  if [ "$1" = S0 ]; then
    restic -q init -r "$r.new" || return 1
  else
    restic_at "$(before "$1")" && cp -a "$T/restic.$(before "$1")" "$r.new" && d=$(dir "$1") || return 1
    (cd "$d" && restic -q -r "$r.new" backup .) || return 1
  fi
  mv "$r.new" "$r"
}
borg_at() { # KEY CHUNKER STATE
  local r=$T/borg.$1.$3 p d
  [ ! -d "$r" ] || return 0
  rm -rf "$r.new"
  mkdir "$r.new"
  if [ "$3" = S0 ]; then
    BORG_BASE_DIR=$r.new/base borg init -e none "$r.new/repo" || return 1
  else
    p=$(before "$3")
    borg_at "$1" "$2" "$p" && cp -a "$T/borg.$1.$p/." "$r.new/" && d=$(dir "$3") || return 1
    (cd "$d" && BORG_BASE_DIR=$r.new/base borg create -C zstd,3 --chunker-params "$2" "$r.new/repo::$3" .) || return 1
  fi
  mv "$r.new" "$r"
}
casync_at() { # STATE
  local r=$T/casync.$1 d
  [ ! -d "$r" ] || return 0
  rm -rf "$r.new"
  if [ "$1" = S0 ]; then
    mkdir "$r.new" || return 1
  else
    casync_at "$(before "$1")" && cp -a "$T/casync.$(before "$1")" "$r.new" && d=$(dir "$1") || return 1
    casync make --with=unix --store="$r.new/s.castr" "$r.new/$1.caidx" "$d" || return 1
  fi
  mv "$r.new" "$r"
}

# repo_at STATE: the same with tarvm, and with what it remembers of the directories.
repo_at() {
  local r=$T/repo.$1 d
  [ ! -d "$r" ] || return 0
  rm -rf "$r.new" "$XDG_STATE_HOME"
  if [ "$1" = S0 ]; then
    tarvm init --repo "$r.new" --name main -q || return 1
    rm -rf "$XDG_CONFIG_HOME" # each --repo says where it is
  else
    repo_at "$(before "$1")" && cp -a "$T/repo.$(before "$1")" "$r.new" && d=$(dir "$1") || return 1
    tarvm save "$d" --repo "$r.new" --project p --time @0 -q || return 1
    cp -a "$XDG_STATE_HOME" "$r.new.state" && rm -rf "$r.state" && mv "$r.new.state" "$r.state" || return 1
  fi
  mv "$r.new" "$r"
}
# repo_copy STATE: a copy as T/p, to be changed.
repo_copy() {
  repo_at "$1" && rm -rf "$T/p" "$XDG_STATE_HOME" && cp -a "$T/repo.$1" "$T/p" || return 1
  [ ! -d "$T/repo.$1.state" ] || cp -a "$T/repo.$1.state" "$XDG_STATE_HOME"
}

borgs=("default:buzhash,19,23,21,4095" "64 KiB:fixed,65536")
# step FROM TO [FLAG]: the rows of the repositories for a backup of TO after FROM (S0 is an empty one). FLAG is restic's.
step() {
  local b key d=$VM/$2
  [ "$2" != S4 ] || d=$T/S4 # made by the first row that needs it
  row "restic (encrypts)" "cd $d && restic -q -r $T/r backup ${3:-} ." "$T/r" \
    "dir $2; restic_at $1; rm -rf $T/r; cp -a $T/restic.$1 $T/r"
  for b in "${borgs[@]}"; do
    key=${b%%:*} key=${key// /}
    row "borg create, zstd 3, chunks ${b%%:*}" \
      "cd $d && BORG_BASE_DIR=$T/b/base borg create -C zstd,3 --chunker-params ${b#*:} $T/b/repo::new ." "$T/b/repo" \
      "dir $2; borg_at $key ${b#*:} $1; rm -rf $T/b; cp -a $T/borg.$key.$1 $T/b"
  done
}

# Two entries on one full of 4 GiB of random data, which differ in 1 % of it: 656 blocks. The directory holds #2.
siblings() {
  local r=$T/siblings s=$T/sibling n
  rm -rf "$r" "$s" "$XDG_STATE_HOME"
  mkdir "$s" && tarvm init --repo "$r" --name siblings -q && rm -rf "$XDG_CONFIG_HOME" || return 1
  head -c 4G /dev/urandom >"$s/disk.raw" || return 1
  tarvm save "$s" --repo "$r" --project p -q || return 1
  for n in 2 3; do
    tarvm restore 1 "$s" --repo "$r" -q && scatter "$s/disk.raw" "$n" && tarvm save "$s" --repo "$r" -q || return 1
  done
}
# scatter FILE N: new blocks of 64 KiB at 328 places of 4 GiB, others for another N.
scatter() {
  local i
  for i in $(seq 328); do
    dd if=/dev/urandom of="$1" bs=64K count=1 seek=$((i * 199 + $2)) conv=notrunc status=none || return 1
  done
}
# at_two: the directory holds #2, and its pages are written.
at_two() { once siblings siblings && tarvm restore 2 "$T/sibling" --repo "$T/siblings" -q && sync -f "$T"; }
# many: a repository of 10,000 entries, the last one restored.
many() {
  local r=$T/many
  rm -rf "$r" "$XDG_STATE_HOME"
  tarvm init --repo "$r" --name many -q && rm -rf "$XDG_CONFIG_HOME" && go run ./testdata/bench/entries "$r" 10000 &&
    tarvm repo reindex --repo "$r" -q && tarvm restore 10000 "$T/last" --repo "$r" -q
}

#--- the groups -------------------------------------------------------------------------
printf 'group\ttool\trun\twall\tuser\tsys\tkib\tbytes\n' >"$OUT"
echo "## Measured on $(date -u +%F): $(nproc) processors, $(awk -F': ' '/model name/ { print $2; exit }' /proc/cpuinfo), load $(cut -d' ' -f1 /proc/loadavg), $RUNS runs"
echo
echo "VM directory: S1 $(($(bytes "$VM/S1") / 1000000)), S2 $(($(bytes "$VM/S2") / 1000000)), S3 $(($(bytes "$VM/S3") / 1000000)) MB"
if have tarvm; then
  echo "$(tarvm --version 2>/dev/null || echo 'tarvm without a version'), $(zstd --version 2>/dev/null | grep -o 'v[0-9.]*' | head -1 | sed 's/^/zstd /'), $(restic version 2>/dev/null | cut -d' ' -f1,2), $(borg --version 2>/dev/null)"
fi

a=$T/a
packs() { row "tarvm pack $*" "tarvm pack $VM/S1 -o $a $* --workers 2" "$a" "rm -f $a $a.manifest"; }
tarred() { row "tar | $*" "tar -cf - -C $VM/S1 . | $* >$a" "$a" "rm -f $a"; }
have_or_skip() { have "$1" || { say "SKIPPED: tar | $1: it is not installed"; return 1; }; }

group "full, zstd"
packs
for l in $LEVELS; do packs --level "$l"; done
if have_or_skip zstd; then
  for l in $LEVELS; do tarred zstd -q -T2 "-$l"; done
  # What tarvm does at the end of its runs, too.
  row "tar | zstd -q -T2 -3, and sync" "tar -cf - -C $VM/S1 . | zstd -q -T2 -3 >$a; sync $a" "$a" "rm -f $a"
fi
measured

group "full, gzip"
packs --codec gzip
if have_or_skip pigz; then tarred pigz -p2; fi
measured

group "full, lz4"
packs --codec lz4
if have_or_skip lz4; then tarred lz4 -q; fi
measured

group "full, none"
packs --codec none
tarred cat
measured

if [ "$SLOW" = 1 ]; then
  group "full, xz"
  packs --codec xz
  if have_or_skip xz; then tarred xz -T2 -6; fi
  measured
elif [ "$ONLY" = . ]; then
  say "SKIPPED: the codec xz (SLOW=1 measures it)"
fi

group "full, into a repository"
packs
step S0 S1
measured

for s in "S1 S2" "S2 S3"; do
  from=${s% *} to=${s#* }
  group "increment $from to $to"
  row "tarvm pack --parent" "tarvm pack $VM/$to -o $a --parent $T/c$from.tar.zst.manifest --workers 2" "$a $a.manifest" "chain; rm -f $a $a.manifest"
  row "cat >/dev/null" "cat $VM/$to/* >/dev/null"
  step "$from" "$to"
  row "casync make (for its size)" "casync make --with=unix --store=$T/ca/s.castr $T/ca/$to.caidx $VM/$to" "$T/ca" \
    "casync_at $from; rm -rf $T/ca; cp -a $T/casync.$from $T/ca" "" once
  measured
done

group "increment S3 to S4: 64 places of the disk changed"
row "tarvm pack --parent" "tarvm pack $T/S4 -o $a --parent $T/cS3.tar.zst.manifest --workers 2" "$a $a.manifest" "chain; rm -f $a $a.manifest"
row "cat >/dev/null" "cat $T/S4/* >/dev/null" "" "dir S4"
step S3 S4
measured

group "nothing changed, all read"
row "tarvm pack --parent" "tarvm pack $VM/S2 -o $a --parent $T/cS2.tar.zst.manifest --workers 2" "$a $a.manifest" "chain; rm -f $a $a.manifest"
row "cat >/dev/null" "cat $VM/S2/* >/dev/null"
step S2 S2 --force
measured

group "nothing changed, times believed"
row "tarvm pack --parent --trust-times" "tarvm pack $VM/S2 -o $a --parent $T/cS2.tar.zst.manifest --trust-times --workers 2" "$a $a.manifest" "chain; rm -f $a $a.manifest"
row "restic (encrypts)" "cd $VM/S2 && restic -q -r $T/r backup ." "$T/r" "restic_at S2; rm -rf $T/r; cp -a $T/restic.S2 $T/r"
measured

o=$T/o
group "restore S4"
row "tarvm unpack, chain of four" "tarvm unpack $T/cS4.tar.zst -C $o --search $T" "" "chain; rm -rf $o" "diff -r $T/S4 $o"
row "tarvm unpack, full" "tarvm unpack $T/full4.tar.zst -C $o" "" "full4; rm -rf $o" "diff -r $T/S4 $o"
row "zstd -d | tar -x" "zstd -dcq $T/tar4.tar.zst | tar -xf - -C $o" "" "tar4; rm -rf $o; mkdir $o" "diff -r $T/S4 $o"
row "zstd -d | tar -x, and sync" "zstd -dcq $T/tar4.tar.zst | tar -xf - -C $o; sync -f $o" "" "tar4; rm -rf $o; mkdir $o" # as tarvm does
row "restic restore" "restic -q -r $T/restic.S4 restore latest --target $o" "" "restic_at S4; rm -rf $o" "diff -r $T/S4 $o"
for b in "${borgs[@]}"; do
  key=${b%%:*} key=${key// /}
  row "borg extract --sparse, chunks ${b%%:*}" "cd $o && BORG_BASE_DIR=$T/borg.$key.S4/base borg extract --sparse $T/borg.$key.S4/repo::S4" "" \
    "borg_at $key ${b#*:} S4; rm -rf $o; mkdir $o" "diff -r $T/S4 $o"
done
measured

group "switch a directory"
row "tarvm unpack, S3 to S4" "tarvm unpack $T/cS4.tar.zst -C $o --search $T" "" "chain; rm -rf $o; cp -a --sparse=always $VM/S3 $o" "diff -r $T/S4 $o"
row "tarvm unpack, S2 to S3" "tarvm unpack $T/cS3.tar.zst -C $o --search $T" "" "chain; rm -rf $o; cp -a --sparse=always $VM/S2 $o" "diff -r $VM/S3 $o"
row "tarvm unpack S3 anew" "tarvm unpack $T/cS3.tar.zst -C $o --search $T" "" "chain; rm -rf $o" "diff -r $VM/S3 $o"
row "cp -r --sparse=always (no check)" "cp -r --sparse=always $VM/S3 $o" "" "rm -rf $o" "diff -r $VM/S3 $o"
measured

# Repositories.
group "repo: save a full entry"
row "tarvm save" "tarvm save $VM/S1 --repo $T/p --workers 2 -q" "$T/p" "repo_copy S0"
row "cat >/dev/null" "cat $VM/S1/* >/dev/null"
step S0 S1
measured

group "repo: save S2 on S1"
row "tarvm save" "tarvm save $VM/S2 --repo $T/p --workers 2 -q" "$T/p" "repo_copy S1"
row "cat >/dev/null" "cat $VM/S2/* >/dev/null"
step S1 S2
measured

group "repo: save S2, which has not changed"
row "tarvm save" "tarvm save $VM/S2 --repo $T/p --workers 2 -q" "$T/p" "repo_copy S2"
row "tarvm save --trust-times" "tarvm save $VM/S2 --repo $T/p --trust-times --workers 2 -q" "$T/p" "repo_copy S2"
row "cat >/dev/null" "cat $VM/S2/* >/dev/null"
step S2 S2 --force
row "restic (encrypts), times believed" "cd $VM/S2 && restic -q -r $T/r backup ." "$T/r" "restic_at S2; rm -rf $T/r; cp -a $T/restic.S2 $T/r"
measured

group "repo: switch between siblings, 1 % of 4 GiB"
row "tarvm restore, into an empty directory" "tarvm restore 3 $o --repo $T/siblings --workers 2 -q && sync -f $o" "" "once siblings siblings; rm -rf $o" "tarvm restore 3 $T/sibling --repo $T/siblings -q && cmp $o/disk.raw $T/sibling/disk.raw"
row "tarvm restore, all read" "tarvm restore 3 $T/sibling --repo $T/siblings --workers 2 -q && sync -f $T" "" "rm -rf $o; at_two"
row "tarvm restore --trust-times" "tarvm restore 3 $T/sibling --repo $T/siblings --trust-times --workers 2 -q && sync -f $T" "" "rm -rf $o; at_two"
row "cat >/dev/null" "cat $T/sibling/disk.raw >/dev/null" "" "once siblings siblings"
measured
rm -rf "$T/siblings" "$T/sibling" "$o"

group "repo: 10,000 entries"
row "tarvm log" "tarvm log --repo $T/many >$a" "" "once many many"
row "tarvm log --json" "tarvm log --json --repo $T/many >$a" "" "once many many"
row "tarvm tree" "tarvm tree --repo $T/many >$a" "" "once many many"
row "tarvm status --quick" "tarvm status --quick $T/last --repo $T/many >$a" "" "once many many"
measured
rm -rf "$T/many"

# What merging builds must be what packing afresh builds; the decoding of the chain is what it cannot do without.
group "repo: merge #3 of a chain to a full one"
row "tarvm merge" "tarvm merge 3 --repo $T/p --workers 2 -q" "" "repo_copy S3"
row "tarvm pack and tarvm unpack" "tarvm pack $VM/S3 -o $a --workers 2 && tarvm unpack $T/cS3.tar.zst -C $o --search $T" "" "chain; rm -rf $a $a.manifest $o"
measured

group "repo: merge #2 and #3 of a chain to one increment"
row "tarvm merge --squash 2..3" "tarvm merge --squash 2..3 --repo $T/p --workers 2 -q" "" "repo_copy S3"
row "tarvm pack --parent and tarvm unpack" "tarvm pack $VM/S3 -o $a --parent $T/cS1.tar.zst.manifest --workers 2 && tarvm unpack $T/cS3.tar.zst -C $o --search $T" "" "chain; rm -rf $a $a.manifest $o"
measured

# Disks: the one of S1 to and from other formats.
disk=$VM/S1/vm.vmdk
# as NAME FORMAT [QEMU-OPTION...] makes the disk in another format, as T/NAME, with qemu-img.
as() { have qemu-img && qemu-img convert -f vmdk -O "$2" "${@:3}" "$disk" "$T/$1"; }
same="qemu-img compare -f vmdk"
# convert NAME FORMAT QEMU-OPTIONS OURS...: rows of qemu-img and of tarvm with each of OURS.
convert() {
  local ours
  group "image: vmdk to $1"
  for ours in "${@:4}"; do
    row "tarvm image convert -O $2 $ours" "tarvm image convert $disk $a -O $2 $ours --workers 2 --force && sync $a" "$a" "rm -f $a" "$same -F $2 $disk $a"
  done
  row "qemu-img convert -O $2 $3" "qemu-img convert -f vmdk -O $2 $3 $disk $a && sync $a" "$a" "rm -f $a"
  measured
}
convert streamOptimized vmdk "-o subformat=streamOptimized" "-o subformat=streamOptimized" "-o subformat=streamOptimized,level=1"
convert "qcow2, deflate" qcow2 "-c" "-o compression=deflate" "-o compression=deflate,level=1"
convert "qcow2, zstd" qcow2 "-c -o compression_type=zstd" "-o compression=zstd" "-o compression=zstd,level=1"
convert raw raw "" ""
convert qcow2 qcow2 "" ""
convert vdi vdi "" ""
convert vhdx vhdx "" ""
# decode NAME FORMAT QEMU-OPTIONS: rows that make it raw.
decode() {
  local x=x.${1//[, ]/}
  group "image: $1 to raw"
  row "tarvm image convert -O raw" "tarvm image convert $T/$x $a -O raw --workers 2 --force && sync $a" "" "once $x as $x $2 $3; rm -f $a" "$same -F raw $disk $a"
  row "qemu-img convert -O raw" "qemu-img convert -f $2 -O raw $T/$x $a && sync $a" "" "once $x as $x $2 $3; rm -f $a"
  measured
}
decode streamOptimized vmdk "-o subformat=streamOptimized"
decode "qcow2, deflate" qcow2 "-c"
decode "qcow2, zstd" qcow2 "-c -o compression_type=zstd"
decode qcow2 qcow2 ""
decode vdi vdi ""
decode vmdk vmdk ""

# Packages. The others' are what their tools make of the disk, a digest of it, and tar; ours has more in it.
# ova_of LEVELS...: rows of tarvm with each level, the default being an empty word.
ova_of() {
  local l
  for l in "$@"; do
    row "tarvm export${l:+ --level $l}" "tarvm export $VM/S1 -o $a.ova ${l:+--level $l} --workers 2 && sync $a.ova" "$a.ova" "rm -f $a.ova" \
      "tarvm ovf verify $a.ova && rm -rf $o && mkdir $o && tar -xf $a.ova -C $o && $same -F vmdk $disk $o/*.vmdk"
  done
}
# packed COMMAND: makes x.vmdk in the current directory with COMMAND, and a package of it. Its envelope is a placeholder.
packed() {
  echo "rm -rf $o && mkdir $o && cd $o && cp $VM/S1/vm.vmx x.ovf && $1 && sha256sum --tag x.ovf x.vmdk >x.mf && tar --format=ustar -cf $a.ova x.ovf x.mf x.vmdk && sync $a.ova"
}
group "ova: of a directory"
ova_of "" 1 6 9
row "qemu-img convert -o subformat=streamOptimized, sha256sum, tar" "$(packed "qemu-img convert -f vmdk -O vmdk -o subformat=streamOptimized $disk x.vmdk")" "$a.ova" "rm -f $a.ova"
measured

# VMware's own converter. OPENVMDK is what runs it, where it is not installed here: "chroot DIR", with SCRATCH and VM seen
# at the same places within.
for l in 1 6; do
  group "ova: deflate level $l, two threads"
  ova_of $l
  if have vmdk-convert || [ -n "${OPENVMDK:-}" ]; then
    [[ "$group/vmdk-convert" =~ $ONLY ]] && tools+=("vmdk-convert -c $l -n 2 (no digest)") paths+=("$a.vmdk") preps+=("rm -f $a.vmdk") checks+=("$same -F vmdk $disk $a.vmdk") onces+=("") \
      cmds+=("${OPENVMDK:-} vmdk-convert -c $l -n 2 $disk $a.vmdk && sync $a.vmdk")
  else
    row vmdk-convert "" # says that it is missing
  fi
  measured
done

group "ova: of the fourth entry of a chain"
row "tarvm export, the directory" "tarvm export $T/S4 -o $a.ova --workers 2 && sync $a.ova" "$a.ova" "chain; rm -f $a.ova" "cp $a.ova $a.first.ova"
row "tarvm export, the archives" "tarvm export $T/cS4.tar.zst --search $T -o $a.ova --workers 2 && sync $a.ova" "$a.ova" "chain; rm -f $a.ova" \
  "tar -xOf $a.first.ova --wildcards '*.vmdk' | sha256sum >$o.sum; tar -xOf $a.ova --wildcards '*.vmdk' | sha256sum | cmp - $o.sum"
measured

# What is written twice for a pipe, and other forms.
group "ova: other ways out"
row "tarvm export" "tarvm export $VM/S1 -o $a.ova --workers 2 && sync $a.ova" "$a.ova" "rm -f $a.ova"
row "tarvm export -o - (a pipe)" "tarvm export $VM/S1 -o - --to ova --workers 2 >$a.pipe && sync $a.pipe" "$a.pipe" "rm -f $a.pipe" "cmp $a.ova $a.pipe"
row "tarvm export --to xva" "tarvm export $VM/S1 -o $a.xva --workers 2 && sync $a.xva" "$a.xva" "rm -f $a.xva"
row "tarvm import, to libvirt" "rm -rf $o; tarvm import $a.ova -C $o --to libvirt --workers 2 && sync -f $o" "$o" "rm -rf $o" "$same -F qcow2 $disk $o/*.qcow2"
measured

group "image: a digest of the disk"
row "tarvm image id" "tarvm image id $disk --workers 2"
row "qemu-img convert to raw" "qemu-img convert -f vmdk -O raw $disk $a" "" "rm -f $a"
measured

group "image: 16 TiB, nearly empty"
sparse() { qemu-img create -q -f qcow2 "$T/big" 16T && qemu-io -f qcow2 -c 'write -q -P 1 9T 1M' "$T/big"; }
row "tarvm image map" "tarvm image map $T/big" "" "once sparse sparse"
row "qemu-img map" "qemu-img map --output=json $T/big" "" "once sparse sparse"
measured

group "image: 16 TiB, nearly empty, tables of 128 MB"
tables() { qemu-img create -q -f vhdx -o block_size=1M "$T/tables" 16T && qemu-io -f vhdx -c 'write -q -P 1 9T 1M' "$T/tables"; }
row "tarvm image map" "tarvm image map $T/tables" "" "once tables tables"
row "qemu-img map" "qemu-img map --output=json $T/tables" "" "once tables tables"
measured

echo
echo "Each run is in $OUT. A time to the first above 1 is slower than the group's first row."
