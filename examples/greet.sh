#!/bin/sh
# Greets its peer by address, reads one line, says hello: any shell script is a handler.
# greet: {listen: 7770, exec: [examples/greet.sh]}
printf 'welcome, %s; who are you?\r\n' "${TCPREMOTEIP:-stranger}"
IFS= read -r name || [ -n "$name" ] || exit 0
# What a peer sends is data: letters, digits, dot, dash, underscore and space stay.
name=$(printf '%s' "$name" | LC_ALL=C tr -cd 'A-Za-z0-9._ -')
printf 'hello %s\r\nbye\r\n' "${name:-nobody}"
