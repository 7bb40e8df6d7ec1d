// The certified provider `oidc-provider`, over TLS: prints its issuer. Accounts are in ACCOUNTS.
import { createServer } from "node:https";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.env.NODE_FOLDER}/x.js`);
const { default: Provider } = await import(pathToFileURL(require.resolve("oidc-provider")).href);
const accounts = JSON.parse(process.env.ACCOUNTS);
const pem = readFileSync(process.argv[2]);
let handle;
const server = createServer({ key: pem, cert: pem }, (request, response) => handle(request, response));
server.listen(0, "127.0.0.1", () => {
  const issuer = `https://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [{
      client_id: "shoal",
      client_secret: "a client's secret",
      application_type: "native",
      redirect_uris: ["http://127.0.0.1:8080/ui/login/back"],
    }],
    claims: { openid: ["sub"], email: ["email", "email_verified"], groups: ["groups"], profile: [] },
    scopes: ["openid", "email", "profile", "groups"],
    pkce: { required: () => true },
    findAccount: (_, sub) => ({ accountId: sub, claims: () => ({ sub, ...accounts[sub] }) }),
  });
  handle = provider.callback();
  console.log(issuer);
});
