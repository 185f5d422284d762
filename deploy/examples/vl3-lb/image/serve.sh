#!/bin/sh
# serve.sh PORT: an HTTP server that returns its name and a download of 64 MiB, which is the same on all servers.
mkdir -p /tmp/www/cgi-bin
echo "Hello! I'm $(hostname)" >/tmp/www/index.html
# A program instead of a file: busybox ends downloads of files after a minute.
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
# Stops accepting connections; each open connection has its own process.
while pidof httpd >/dev/null; do sleep 0.2; done
# Written data may still be in the kernel, which drops it when the pod ends.
sleep 2
