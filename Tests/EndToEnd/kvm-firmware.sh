#!/bin/bash
# SeaBIOS on two nodes with this machine's own KVM, a vCPU each: kvm-firmware.sh MODE GOLIATH GOLIATH-SHELL FOLDER. It runs the vCPU of node 1 by INIT and STARTUP, which
# counts itself in memory that both use. Prints a line for each step that held. MODE: shm, unix or tcp; FOLDER is new.
mode=$1 goliath=$2 shell=$3
cd "$4" || exit 1
fail() {
  echo "FAILED: $*"
  for n in 0 1; do
    echo "node $n:"
    cat errors$n
    timeout 30 "$shell" -c query-cluster qmp$n
  done
  tail -c 1000 firmware0
  kill "$pid0" "$pid1"
  exit 1
}
wait_for() {
  local end=$((SECONDS + 120))
  until "$@"; do
    ((SECONDS < end)) || return 1
    kill -0 "$pid0" && kill -0 "$pid1" || return 1
    sleep 0.1
  done 2>/dev/null
}
monitor() { timeout 100 "$shell" -c "$2" "qmp$1" >answer 2>&1 || fail "$2 at node $1: $(cat answer)"; }
is_status() { timeout 100 "$shell" -c query-status "qmp$1" 2>/dev/null | grep -q "$2"; }
has() { grep -aq "$1" firmware0; }
grows() { (($(stat -c %s firmware0) > $1)); }

mkdir -m 700 nodes
name=goliath-test-$$
port=$((20000 + $$ % 20000))
case $mode in
  shm) common=(-shm-path "$name") ;;
  unix) common=(-cluster "demo,peers=unix:$PWD/nodes/0+unix:$PWD/nodes/1") ;;
  tcp) common=(-cluster "demo,peers=127.0.0.1:$port+127.0.0.1:$((port + 1))") ;;
esac
: >firmware0
for n in 0 1; do
  case $mode in
    shm) cluster=("${common[@]}" -local-cpu "1,start=$n") ;;
    *) cluster=(-cluster "${common[1]},node=$n") ;;
  esac
  "$goliath" -accel kvm,probe=off -m 128 -smp 2 -nodefaults -display none -chardev "file,id=d,path=firmware$n" \
    -device isa-debugcon,iobase=0x402,chardev=d -qmp "unix:qmp$n,server=on,wait=off" "${cluster[@]}" 2>errors$n &
  eval pid$n=$!
done
wait_for has 'Found 2 cpu(s)' || fail 'the vCPU of node 1 does not come up'
wait_for has 'Scan for VGA' || fail 'the firmware does not get on'
echo 'both vCPUs run'
monitor 1 stop
wait_for is_status 0 paused || fail 'node 0 is not stopped'
wait_for is_status 1 paused || fail 'node 1 is not stopped'
monitor 0 cont
wait_for is_status 1 running || fail 'node 1 does not go on'
echo 'stop and cont'
: >firmware0
monitor 1 system_reset
wait_for has 'Found 2 cpu(s)' || fail 'the vCPU of node 1 does not come up after a reset'
echo 'reset'
if [[ $mode != shm ]]; then
  monitor 1 query-dsm
  grep -Eq 'full +[1-9]' answer || fail "no page went to node 1: $(cat answer)"
  echo 'pages go from node to node'
fi
monitor 1 quit
wait "$pid0" || fail "node 0 ended with $?"
wait "$pid1" || fail "node 1 ended with $?"
[[ ! -e /dev/shm/$name ]] || fail 'the object is still there'
echo 'quit'
