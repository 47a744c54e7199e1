#!/bin/sh
# In the virtual host: one machine on two nodes with KVM, a vCPU each. Prints a line for each step that held. $1: how the nodes have RAM in common: shm,
# unix or tcp. $2: long, for a second life after a reset. /guest has kernel and initramfs with drivers, /goliath and /goliath-shell are the programs.
mode=$1
log=/tmp/log
fail() {
  echo "FAILED after $(cut -d. -f1 /proc/uptime) s of the virtual host: $*"
  echo 'the guest:'
  tail -c 2500 $log
  for n in 0 1; do
    eval "pid=\$pid$n"
    echo
    echo "node $n: $(kill -0 "$pid" 2>&1 && cut -d' ' -f14,15 "/proc/$pid/stat") ticks of CPU"
    tail -n 20 /tmp/errors$n
    for command in query-status query-cluster query-cpus-fast; do
      timeout 60 /goliath-shell -c $command /tmp/qmp$n 2>&1 | head -n 30
    done
  done
  echo 'the virtual host:'
  dmesg | grep -v 'Unhandled \(RD\|WR\)MSR' | tail -n 5
  exit 1
}
# wait_for SECONDS COMMAND…: until it succeeds, with both programs there
wait_for() {
  end=$(($(cut -d. -f1 /proc/uptime) + $1))
  shift
  until "$@"; do
    [ "$(cut -d. -f1 /proc/uptime)" -lt "$end" ] || return 1
    kill -0 "$pid0" 2>/dev/null && kill -0 "$pid1" 2>/dev/null || return 1
    sleep 1
  done
}
# In seconds of the virtual host. RAM by the page is slow where every fault of the guest is emulated.
limit=240
[ "$mode" = shm ] || limit=1500
expect() { wait_for $limit grep -q "$1" $log || fail "no '$1'"; }
# monitor NODE COMMAND: its answer in /tmp/answer
monitor() { /goliath-shell -c "$2" /tmp/qmp"$1" >/tmp/answer 2>&1 || fail "$2 at node $1: $(cat /tmp/answer)"; }
is_status() { /goliath-shell -c query-status /tmp/qmp"$1" 2>/dev/null | grep -q "$2"; }

cd /tmp
mkdir -m 700 nodes
case $mode in
  shm) common='-shm-path demo -cluster lease-ms=60000' ;;
  unix) common='-cluster demo,lease-ms=60000,peers=unix:/tmp/nodes/0+unix:/tmp/nodes/1' ;;
  tcp) common='-cluster demo,lease-ms=60000,peers=127.0.0.1:7710+127.0.0.1:7711' ;;
esac
dd if=/dev/urandom of=data bs=1M count=1 2>/dev/null
# Now: the guest changes it soon.
sum=$(md5sum <data | cut -c1-32)
cat >script <<'GUEST'
for n in $(seq 100); do [ -b /dev/vdb ] && break; sleep 0.1; done
echo "sees-$(nproc)-vcpus"
taskset 2 md5sum /dev/vdb
taskset 2 dd if=/dev/vdb of=/dev/vdb bs=64k count=8 seek=8 oflag=direct 2>/dev/null
sync
echo written-from-$(taskset 2 cut -d' ' -f39 /proc/self/stat)
# Each vCPU wakes the other one, and both count in memory that both use.
mkfifo a b
n=40
taskset 2 sh -c "i=0; while [ \$i -lt $n ]; do read x <a; echo \$x >b; i=\$((i + 1)); done" 3<>a 4<>b &
taskset 1 sh -c "i=0; while [ \$i -lt $n ]; do echo \$i >a; read x <b; [ \$x = \$i ] || echo wrong-\$x; i=\$((i + 1)); done; echo turns-\$i" 3<>a 4<>b
wait
sed -n '/RES:\|CAL:\|LOC:\|virtio/s/^/interrupts-/p' /proc/interrupts
cat /sys/devices/system/clocksource/clocksource0/current_clocksource
dmesg | grep -i 'unstable\|clocksource\|BUG\|mce' | tail -n 8
[ -e /sys/block/vda ] && echo first-life-$(cat /proc/uptime | cut -d. -f1)
n=0; while :; do n=$((n + 1)); echo tick-$n-$(cut -d' ' -f1 /proc/uptime); sleep 1; done
GUEST
truncate -s 1M script
start() {
  : >$log
  for n in 0 1; do
    case $mode in
      shm) place="-local-cpu 1,start=$n" ;;
      *) place=",node=$n" ;;
    esac
    case $mode in shm) cluster="$common $place" ;; *) cluster="$common$place" ;; esac
    # shellcheck disable=SC2086
    /goliath -accel kvm -m 192 -smp 2 -nodefaults -display none -serial file:$log -qmp unix:/tmp/qmp$n,server=on,wait=off \
      -kernel /guest/vmlinuz -initrd /guest/initrd-devices.gz \
      -append 'console=ttyS0 panic=-1 no_timer_check quiet mitigations=off goliath.run=modprobe+virtio_pci;modprobe+virtio_blk;cat+/dev/vda|tr+-d+"\000"|sh' \
      -drive file=script,format=raw,if=none,id=s,readonly=on -device virtio-blk-pci,drive=s,addr=4 \
      -drive file=data,format=raw,if=none,id=d -device virtio-blk-pci,drive=d,addr=5 \
      $cluster 2>/tmp/errors$n &
    eval pid$n=$!
  done
}
start
expect sees-2-vcpus
echo "a stock kernel sees 2 vCPUs"
expect "$sum  /dev/vdb"
expect written-from-1
cmp -n 524288 data data 0 524288 || fail 'what the guest wrote is not on the disk'
echo "virtio-blk from the vCPU of node 1"
expect turns-40
grep -q wrong- $log && fail 'a wrong value'
expect tick-1-
echo "the vCPUs wake each other: $(grep -c interrupts- $log) lines"
grep "interrupts-\|clocksource\|tsc\|kvm-clock" $log
expect tick-2-
monitor 1 stop
wait_for 20 is_status 0 paused || fail 'node 0 is not stopped'
is_status 1 paused || fail 'node 1 is not stopped'
before=$(wc -c <$log)
sleep 3
[ "$(wc -c <$log)" = "$before" ] || fail 'the guest runs while it is stopped'
monitor 0 cont
wait_for 60 grep -q "tick-$(($(grep -c tick- $log) + 2))-" $log || fail 'the guest does not go on'
echo 'stop and cont'
tail -n 3 $log
if [ "$2" = long ]; then
  monitor 1 system_reset
  : >$log
  expect sees-2-vcpus
  expect tick-1-
  echo 'reset'
fi
[ $mode = shm ] || { monitor 0 query-dsm && tr -d '\n' </tmp/answer; echo; }
monitor 1 quit
wait $pid0 || fail "node 0 ended with $?"
wait $pid1 || fail "node 1 ended with $?"
[ ! -e /dev/shm/demo ] || fail 'the object is still there'
echo 'quit'
