#!/bin/sh
# In the virtual host: disks, an optical drive and a network of a guest, and a disk that comes and goes. Prints a line for each step that
# held. /guest has kernel and initramfs with drivers, /goliath and /goliath-shell are the programs.
log=/tmp/log
fail() {
  echo "FAILED: $*"
  cat /tmp/errors
  tail -c 3000 $log
  echo
  exit 1
}
expect() {
  end=$(($(cut -d. -f1 /proc/uptime) + 200))
  until tail -c "+$seen" $log | grep -q "$1"; do
    [ "$(cut -d. -f1 /proc/uptime)" -lt "$end" ] || fail "no '$1'"
    kill -0 "$pid" 2>/dev/null || fail "the program ended before '$1'"
    sleep 1
  done
}
monitor() { /goliath-shell -c "$1" /tmp/qmp >/tmp/answer 2>&1 || fail "$1: $(cat /tmp/answer)"; }

cd /tmp
mkdir www
for file in v h c plugged www/file; do dd if=/dev/urandom of=$file bs=1M count=4 2>/dev/null; done
httpd -p 127.0.0.1:8080 -h /tmp/www
# The script lies on a disk of its own, which is the first: so it may be long.
cat >script <<'GUEST'
for n in $(seq 100); do [ -b /dev/sda -a -b /dev/sr0 -a -b /dev/vdb ] && break; sleep 0.1; done
for d in vdb sda sr0; do md5sum /dev/$d; done
dd if=/dev/vdb of=/dev/sda bs=64k count=16 seek=32 2>/dev/null
dd if=/dev/sr0 of=/dev/vdb bs=4096 count=200 seek=700 oflag=direct 2>/dev/null
sync
echo all-written
ip link set eth0 up && udhcpc -q -n -i eth0 -s /bin/true >/dev/null && echo has-address
ip addr add 10.0.2.15/24 dev eth0
wget -q -O - http://10.0.2.2:8080/file | md5sum
for turn in 1 2; do
  echo wants-disk-$turn
  until [ -b /dev/vdc ]; do sleep 0.1; done
  md5sum /dev/vdc
  dd if=/dev/vdb of=/dev/vdc bs=4096 count=100 seek=$((turn * 100)) oflag=direct 2>/dev/null
  echo wants-it-gone-$turn
  while [ -b /dev/vdc ]; do sleep 0.1; done
done
echo gone
until wget -q -O - http://10.0.2.2:8080/end; do sleep 0.2; done
poweroff -f
GUEST
truncate -s 1M script
: >$log
seen=1
/goliath -accel kvm -m 256 -smp 2 -nodefaults -display none -serial file:$log -qmp unix:/tmp/qmp,server=on,wait=off \
  -kernel /guest/vmlinuz -initrd /guest/initrd-devices.gz \
  -append 'console=ttyS0 panic=-1 no_timer_check quiet goliath.run=modprobe+virtio_pci;modprobe+virtio_blk;modprobe+virtio_net;modprobe+ata_piix;modprobe+sd_mod;modprobe+sr_mod;cat+/dev/vda|tr+-d+"\000"|sh' \
  -drive file=script,format=raw,if=none,id=s,readonly=on -device virtio-blk-pci,drive=s,addr=4 \
  -drive file=v,format=raw,if=none,id=v -device virtio-blk-pci,drive=v,addr=5 \
  -drive file=h,format=raw,if=none,id=h -device ide-hd,drive=h,bus=ide.0 \
  -drive file=c,format=raw,if=none,id=c,media=cdrom -device ide-cd,drive=c,bus=ide.1 \
  -netdev user,id=n -device virtio-net-pci,netdev=n 2>/tmp/errors &
pid=$!
for pair in v:vdb h:sda c:sr0; do expect "$(md5sum <"${pair%:*}" | cut -c1-32)  /dev/${pair#*:}"; done
expect all-written
echo 'virtio-blk, ide-hd and ide-cd: what is on them is read'
cmp -n 1048576 v h 0 2097152 && cmp -n 819200 c v 0 2867200 || fail 'what the guest wrote is not on the disks'
echo 'virtio-blk and ide-hd: what is written is there'
expect has-address
expect "$(md5sum <www/file | cut -c1-32)"
echo 'virtio-net: an address and a file through user networking'
for turn in 1 2; do
  expect wants-disk-$turn
  monitor 'blockdev-add driver=raw node-name=p file={"driver":"file","filename":"/tmp/plugged"}'
  monitor 'device_add driver=virtio-blk-pci drive=p id=plugged'
  expect "$(md5sum <plugged | cut -c1-32)  /dev/vdc"
  expect wants-it-gone-$turn
  monitor 'device_del id=plugged'
  # The node is free when the device has gone.
  n=0
  until /goliath-shell -c 'blockdev-del node-name=p' /tmp/qmp >/tmp/answer 2>&1; do
    n=$((n + 1))
    [ $n -lt 60 ] || fail "blockdev-del: $(cat /tmp/answer)"
    sleep 1
  done
  cmp -n 409600 v plugged 0 $((turn * 409600)) || fail 'what the guest wrote is not on the plugged disk'
  echo "a disk was plugged, used and unplugged: $turn"
done
expect gone
# The program ends with the guest, so the guest waits for this.
echo end >www/end
wait $pid
status=$?
[ $status = 0 ] || fail "status $status"
echo 'power off'
