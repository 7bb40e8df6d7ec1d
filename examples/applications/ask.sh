#!/bin/sh
# Asks a device, or the first of a group that answers, with mosquitto's own client (2.0 or newer).
#
#     sh ask.sh HOST PORT FOLDER FLEET APPLICATION TARGET OPERATION PAYLOAD
#
# PAYLOAD is JSON: '{"text": "turn on the lights"}'. MQTT 5: mosquitto_rr sends the response topic.
set -eu
exec mosquitto_rr -V mqttv5 -h "$1" -p "$2" \
  --cafile "$3/ca.pem" --cert "$3/certificate.pem" --key "$3/key.pem" \
  -t "shoal/v1/$4/$6/req/$7" -e "shoal/v1/$4/a/$5/ask-sh" -q 1 -W 20 -m "$8"
