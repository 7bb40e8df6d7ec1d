// Asks a device over MQTT with an application's certificate; needs `npm install mqtt`.
//
//     node ask.mjs HOST PORT FOLDER FLEET APPLICATION TARGET OPERATION VERSION [TEXT]
//
// VERSION is 5, or 4 for MQTT 3.1.1, whose messages have no properties: there the fields `id` and
// `reply_to` say the same. Prints the first answer.
import { randomBytes, randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import mqtt from "mqtt";

const [host, port, folder, fleet, application, target, operation, version, text] =
  process.argv.slice(2);
const prefix = `shoal/v1/${fleet}`;
const answers = `${prefix}/a/${application}/ask-js`;
const request = text === undefined ? {} : { text };
const options = { qos: 1 };
const correlation = randomBytes(8);
if (version === "5") {
  options.properties = { responseTopic: answers, correlationData: correlation };
} else {
  Object.assign(request, { id: randomUUID(), reply_to: answers });
}

const client = mqtt.connect(`mqtts://${host}:${port}`, {
  protocolVersion: Number(version),
  ca: readFileSync(`${folder}/ca.pem`),
  cert: readFileSync(`${folder}/certificate.pem`),
  key: readFileSync(`${folder}/key.pem`),
});
client.on("error", (error) => {
  console.error(error.message);
  process.exit(1);
});
client.on("message", (topic, payload, packet) => {
  const answer = JSON.parse(payload);
  const ours =
    version === "5"
      ? correlation.equals(packet.properties?.correlationData ?? Buffer.of())
      : answer.id === request.id;
  if (!ours) return;
  console.log(payload.toString());
  client.end(true, () => process.exit(0));
});
client.on("connect", async () => {
  await client.subscribeAsync(answers, { qos: 1 });
  client.publish(`${prefix}/${target}/req/${operation}`, JSON.stringify(request), options);
});
