#!/bin/sh
# In the virtual host: a Debian in a qcow2 image on its disk /dev/vda, booted from IDE and from virtio, used and switched off.
#
#   kvm-debian.sh KIND...     ide or virtio; prints a line for each step that held
log=/tmp/log
fail() {
  echo "FAILED: $*"
  cat /tmp/errors
  tail -c 3000 $log
  echo
  exit 1
}
# Waits until the serial port has said $1 behind what was waited for before.
expect() {
  end=$(($(cut -d. -f1 /proc/uptime) + 400))
  until tail -c "+$seen" $log | grep -q "$1"; do
    [ "$(cut -d. -f1 /proc/uptime)" -lt "$end" ] || fail "no '$1'"
    kill -0 "$pid" 2>/dev/null || fail "the program ended before '$1'"
    sleep 1
  done
  seen=$(($(wc -c <$log) + 1))
}
say() { printf '%s\n' "$1" >/tmp/serial.in; }
mkfifo /tmp/serial.in /tmp/serial.out
mkdir /tmp/www
dd if=/dev/urandom of=/tmp/www/file bs=1M count=2 2>/dev/null
httpd -p 127.0.0.1:8080 -h /tmp/www
sum=$(md5sum </tmp/www/file | cut -c1-32)
for kind in "$@"; do
  case $kind in
    ide) root=/dev/sda1 ;;
    virtio) root=/dev/vda1 ;;
  esac
  : >$log
  seen=1
  cat /tmp/serial.out >>$log &
  /goliath -accel kvm -m 512 -display none -monitor none -serial pipe:/tmp/serial \
    -drive "file=/dev/vda,format=qcow2,if=$kind" -net user -net nic,model=virtio 2>/tmp/errors &
  pid=$!
  expect 'goliath-guest login: '
  echo "$kind: SeaBIOS, GRUB, login on the serial port"
  say root
  expect '# '
  say "stty -echo; dmesg -n 1; echo root-''is \$(findmnt -n -o SOURCE /)"
  expect "root-is $root"
  # Fetched by the first that runs, found again by the next.
  say 'until ip -4 -o addr show | grep -q 10.0.2.15; do sleep 1; done; [ -e /root/file ] || wget -q -O /root/file http://10.0.2.2:8080/file; sync; md5sum /root/file'
  expect "$sum"
  echo "$kind: the network, and a file that came over it"
  say poweroff
  wait $pid
  status=$?
  [ $status = 0 ] || fail "status $status"
  echo "$kind: power off"
done
