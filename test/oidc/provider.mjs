// An OpenID Connect provider for tests: oidc-provider, with its own forms for
// signing in. Everybody signs in with his name and any password.
//
// usage: node provider.mjs FOLDER PORT < options.json
//
// FOLDER is where oidc-provider is installed. A line with the issuer's URL is
// written when it answers. It ends with its standard input.
import http from 'node:http';
import crypto from 'node:crypto';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const [folder, port] = process.argv.slice(2);
const { Provider } = await import(pathToFileURL(path.join(folder, 'node_modules/oidc-provider/lib/index.js')));

// The options are the first line.
const options = await new Promise((resolve) => {
  let text = '';
  process.stdin.on('data', (piece) => {
    text += piece;
    if (text.includes('\n')) resolve(JSON.parse(text.split('\n')[0]));
  });
  process.stdin.on('end', () => process.exit(0));
});

const server = http.createServer();
await new Promise((resolve) => server.listen(Number(port), '127.0.0.1', resolve));
const issuer = `http://127.0.0.1:${server.address().port}`;
const { privateKey } = crypto.generateKeyPairSync('rsa', { modulusLength: 2048 });
const key = { ...privateKey.export({ format: 'jwk' }), kid: crypto.randomUUID(), use: 'sig', alg: 'RS256' };

const provider = new Provider(issuer, {
  clients: [{
    client_id: options.client,
    client_secret: options.secret,
    redirect_uris: ['http://127.0.0.1/ui/sign-in/callback'],
    grant_types: ['authorization_code'],
    response_types: ['code'],
  }],
  claims: {
    openid: ['sub'],
    profile: ['name', 'preferred_username'],
    email: ['email', 'email_verified'],
    groups: ['groups'],
  },
  findAccount: (ctx, id) => ({
    accountId: id,
    claims: () => ({ sub: id, ...options.people[id] }),
  }),
  // The client is one of the house: nobody is asked whether it may know him.
  async loadExistingGrant(ctx) {
    const grant = new provider.Grant({ clientId: ctx.oidc.client.clientId, accountId: ctx.oidc.session.accountId });
    grant.addOIDCScope('openid profile email groups');
    await grant.save();
    return grant;
  },
  pkce: { required: () => true },
  jwks: { keys: [key] },
  cookies: { keys: [crypto.randomUUID()] },
  ttl: { AccessToken: 600, AuthorizationCode: 60, IdToken: 7200, Interaction: 600, Session: 3600, Grant: 3600 },
});
// Frontends of tests have ports that nobody knows beforehand.
provider.Client.prototype.redirectUriAllowed = (uri) => {
  const u = new URL(uri);
  return ['127.0.0.1', 'localhost'].includes(u.hostname) && u.pathname === '/ui/sign-in/callback';
};
server.on('request', provider.callback());
console.log(issuer);
