# What is done and checked on NFS, in the guest's shell (busybox). Two mounts of one export stand
# for two hosts. Prints a line for each check; exit code 0 if all held. VERSIONS: versions of NFS.
export NO_COLOR=1
failures=0
tars=/tars
classes=$(($(wc -l <$tars/list.csv) - 1))
work=/tmp/work
mkdir -p $work

seconds() { cut -d. -f1 /proc/uptime; }
right() { echo "ok: $(seconds) s: NFS $version: $*"; }
wrong() {
  echo "WRONG: $(seconds) s: NFS $version: $*"
  failures=$((failures + 1))
  for log in $work/*.log; do
    echo "--- $log"
    tail -n 15 "$log"
  done
}
# check WHAT COMMAND...: the command must succeed.
check() {
  what=$1
  shift
  if "$@"; then right "$what"; else wrong "$what"; fi
}
# wait_until SECONDS WHAT COMMAND...: the command must succeed within so many seconds.
wait_until() {
  deadline=$(($(seconds) + $1)) awaited=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$(seconds)" -lt $deadline ] || { wrong "not in time: $awaited"; return 1; }
    sleep 0.2
  done
  right "$awaited"
}
has_ended() { [ ! -e /proc/$1 ] || grep -q '^State:.Z' /proc/$1/status; }
# must_exit CODE SECONDS NAME PID: the process ends by itself, with that code.
must_exit() {
  wait_until "$2" "$3 has ended" has_ended "$4" || kill -9 "$4"
  wait "$4"
  check "$3 ends with $1" test $? = "$1"
}
killed() {
  kill -9 "$1"
  wait "$1" 2>/dev/null
}

# The folder's staging, in it or beside it, as the server has it.
staging() { ls -d "$export/$1/.partial" "$export/.$1.partial" 2>/dev/null; }
half_classes() { for folder in $(staging all); do ls -d "$folder"/n*/; done 2>/dev/null | wc -l; }
are_begun() { [ "$(half_classes)" -ge "$1" ]; }
# Classes that the coordinator counts as a success, as it answers over the network.
counted() { coordinator status 2>/dev/null | sed -n 's/.* classes: \([0-9]*\) success.*/\1/p'; }
are_counted() { [ "$(counted)" -ge "$1" ]; }
# What must not be left: staging, SQLite's journals, and names that NFS gives to removed files that
# are still open.
leftovers() {
  staging "$1"
  for name in '*-wal' '*-shm' '*-journal' '.nfs*'; do find "$export" -name "$name"; done
}
nothing_is_left() {
  left=$(leftovers "$1")
  [ -z "$left" ] || { echo "left: $left"; return 1; }
}
verified() { coordinator verify --target "$1" >$work/verify.log 2>&1; }
# The files of each class are those of its tar, byte by byte.
are_as_in_the_tars() {
  for tar in $tars/*.tar; do
    wnid=$(basename "$tar" .tar)
    rm -rf $work/expected $work/found
    mkdir $work/expected
    tar -x -f "$tar" -C $work/expected
    cp -r "$1/$wnid" $work/found
    rm $work/found/.manifest.json
    diff -r $work/expected $work/found || { echo "$wnid differs"; return 1; }
  done
}

# One program with everything at its default: the ledger is in the target.
single_host() {
  coordinator --demo --target /mnt/a/one >$work/demo.log 2>&1
  check "the demo ends with 1, for its one missing class" test $? = 1
  check "its classes are verified through the other mount" verified /mnt/b/one
  check "nothing of the demo is left" nothing_is_left one
  coordinator --demo --target /mnt/b/one >$work/again.log 2>&1
  check "the same command through the other mount ends with 1" test $? = 1
  check "it has skipped what was there" grep -q 'Skipped: 12$' $work/again.log
}

# job TARGET PORT ARGUMENT...: becomes a coordinator.
job() {
  target=$1 port=$2
  shift 2
  exec coordinator --fname $tars/list.csv --url "$url" --target "$target" --delete-tar \
    --listen 127.0.0.1:$port --http 127.0.0.1:0 --lease-ttl 10s "$@"
}
start_coordinator() {
  job "$1/state" 50051 >$work/coordinator.log 2>&1 &
  coordinator=$!
}
start_worker() {
  worker --connect http://127.0.0.1:50051 --workers 2 --target "/mnt/$1/all" --name "$1" \
    >"$work/$1.log" 2>&1 &
}
start_workers() {
  start_worker a
  a=$!
  start_worker b
  b=$!
}
# refused NAME TEXT ARGUMENT...: a coordinator with these arguments ends with 2 and says that text.
refused() {
  name=$1 text=$2
  shift 2
  (job "$@") >$work/second.log 2>&1
  check "$name ends with 2" test $? = 2
  check "$name says why" grep -q "$text" $work/second.log
}

# A coordinator with its ledger on NFS and two workers on the two mounts; all of them are killed.
cluster() {
  origin --dir $tars --rate 50000 >$work/origin 2>$work/origin.log &
  origin=$!
  wait_until 10 "the origin answers" grep http $work/origin
  url=$(cat $work/origin)
  start_coordinator /mnt/a
  start_workers
  wait_until 60 "both workers have begun" are_begun 4
  refused "a second coordinator on the other mount" "another coordinator works in it" \
    /mnt/b/state 50052
  refused "one with another target and the same ledger" "in use by process $coordinator on guest" \
    /mnt/b/elsewhere 50052 --ledger /mnt/b/state/.imagenet_downloader.ledger
  killed $a
  killed $b
  start_workers
  wait_until 60 "after both workers were killed, others finish a class" are_counted 1
  before=$(counted)
  killed $coordinator
  check "the coordinator was killed before the end" test "$before" -lt $classes
  start_coordinator /mnt/b
  wait_until 60 "it goes on from the other mount and counts one more" are_counted $((before + 1))
  before=$(counted)
  killed $coordinator
  check "it was killed again before the end" test "$before" -lt $classes
  start_coordinator /mnt/a
  must_exit 0 90 "the coordinator" $coordinator
  must_exit 0 30 "worker a" $a
  must_exit 0 30 "worker b" $b
  killed $origin
  check "it counts each class once" grep -q "^Total: *$classes\$" $work/coordinator.log
  check "each of them is a success" grep -q "Success: $classes\$" $work/coordinator.log
  check "they are verified through the other mount" verified /mnt/b/all
  check "they are as in the tars" are_as_in_the_tars /mnt/b/all
  check "nothing of the job is left" nothing_is_left all
}

for version in $VERSIONS; do
  export=/export/$version
  mkdir "$export"
  case $version in
    3) source=127.0.0.1:$export ;;
    *) source=127.0.0.1:/$version ;;
  esac
  for mount in a b; do
    mount.nfs "$source" /mnt/$mount -o "vers=$version,nosharecache" || wrong "cannot mount"
  done
  began=$(seconds)
  single_host
  cluster
  umount /mnt/a /mnt/b
  right "$(($(seconds) - began)) s"
done
[ $failures = 0 ]
