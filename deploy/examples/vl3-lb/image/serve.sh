#!/bin/sh
# serve.sh PORT: an HTTP server that says who it is, and has 64 MiB to download, the same on every server.
mkdir -p /tmp/www/cgi-bin
echo "Hello! I'm $(hostname)" >/tmp/www/index.html
# Not a file: busybox ends the download of one after a minute.
cat >/tmp/www/cgi-bin/download <<'CGI'
#!/bin/sh
printf 'Content-Type: text/plain\r\nContent-Length: 67108864\r\n\r\n'
yes vl3-lb | head -c 67108864
CGI
chmod +x /tmp/www/cgi-bin/download

httpd -f -p "$1" -h /tmp/www &
listener=$!
trap 'kill $listener' TERM
wait $listener
# No new connections; each of the old ones has a process of its own.
while pidof httpd >/dev/null; do sleep 0.2; done
# What was written may still be in the kernel, whose network for this pod ends with the pod.
sleep 2
