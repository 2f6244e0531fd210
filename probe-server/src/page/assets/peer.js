'use strict';
// A browser as the peer of `nat-check punch`, or of another browser: it joins the session whose code stands behind /p/ in the
// address, or opens one. It speaks the rendezvous protocol as nat-check does; the attempt itself is ICE.

const VERSION = 2;
/** How long one side may take for a step, how long pairs are checked, how long a path is held: in milliseconds. */
const PATIENCE = 60000;
const WINDOW = 8500;
const HOLD = 3000;
/** Ports that are guessed: a browser checks some twenty candidates a second. */
const GUESSES = 16;
const MOST_ADDRESSES = 8;

/** The connection to the rendezvous. What ends it early rejects everything that is waited for. */
class Rendezvous {
  constructor(code) {
    this.step = 0;
    this.rtt = 0;
    this.heard = new Map();
    this.ended = new Promise((_, reject) => { this.fail = reject; });
    this.ended.catch(() => {});
    this.socket = new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/punch`);
    this.socket.onopen = () => this.tell(code ? { type: 'join', version: VERSION, code } : { type: 'open', version: VERSION });
    this.socket.onclose = () => this.fail(words.lost);
    this.socket.onmessage = ({ data }) => this.take(JSON.parse(data));
    this.keepalive = setInterval(() => this.tell({ type: 'ping', id: 4294967295 }), 30000);
  }

  tell(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  take(message) {
    switch (message.type) {
      case 'peer-ping': return this.tell({ type: 'peer-pong', id: message.id });
      case 'peer-left': return this.fail(words.left);
      case 'refused': return this.fail(words.refusals[message.reason] || words.refusedJoin + message.reason);
      default: return this.note(message.type + (message.step ?? message.id ?? ''), message);
    }
  }

  /** A message of this name, now or later. */
  slot(name) {
    if (!this.heard.has(name)) {
      const slot = {};
      slot.promise = new Promise((resolve) => { slot.resolve = resolve; });
      this.heard.set(name, slot);
    }
    return this.heard.get(name);
  }

  note(name, message) { this.slot(name).resolve(message); }

  hear(name, within) {
    const late = within && wait(within).then(() => { throw words.silent; });
    return Promise.race([this.slot(name).promise, this.ended, ...(late ? [late] : [])]);
  }

  async timed(ask, answer) {
    let best = Infinity;
    for (let id = 0; id < 3; id += 1) {
      const begun = performance.now();
      this.tell({ type: ask, id });
      await this.hear(answer + id, 10000);
      best = Math.min(best, performance.now() - begun);
    }
    return best;
  }

  /** Hands the peer this, and gives what it says, at the moment at which both go on. */
  async exchange(payload) {
    const { step } = this;
    this.step += 1;
    this.tell({ type: 'ready', step, rtt_ms: Math.round(this.rtt), payload });
    const start = await this.hear(`start${step}`, PATIENCE);
    await wait(Math.min(start.after_ms, 1000));
    return start.payload;
  }

  close() {
    clearInterval(this.keepalive);
    this.socket.onclose = null;
    this.socket.close();
  }
}

const sure = (finding) => (finding && ['certain', 'strong'].includes(finding.confidence) ? finding.value : null);
const endpoint = (ip, port) => (ip.includes(':') ? `[${ip}]:${port}` : `${ip}:${port}`);
const distinct = (list) => [...new Set(list)].slice(0, MOST_ADDRESSES);

/** Address and port out of `192.0.2.1:5000` or `[2001:db8::1]:5000`. */
function parts(at) {
  const colon = at.lastIndexOf(':');
  return { ip: at.slice(0, colon).replace(/^\[|\]$/g, ''), port: Number(at.slice(colon + 1)) };
}

/** How one family of the report behaves, as peers tell each other. */
function behaviour(family) {
  const udp = family && family.udp;
  if (!udp || sure(udp.nat_type) === 'udp-blocked') return { udp: false };
  return {
    udp: true,
    mapping: sure(udp.mapping),
    filtering: sure(udp.filtering),
    ports: sure(udp.port_allocation),
    hairpinning: sure(udp.hairpinning),
    addresses: distinct((udp.external || []).map((at) => parts(at).ip)),
  };
}

/** Whether the router gives a port to whoever sends first, as far as that is known. */
function remaps(udp) {
  const mapping = sure(udp && udp.mapping);
  return mapping && mapping !== 'endpoint-independent' ? false : sure(udp && udp.inbound_first_remap);
}

const isFixed = ({ mapping }) => mapping === 'direct' || mapping === 'endpoint-independent';

/** Where this browser is found: what a STUN server saw, and, without translation, its hidden address with the port that shows. */
function found(lines, report) {
  const all = lines.map((line) => line.split(' ')).filter((it) => it[2].toLowerCase() === 'udp');
  const hosts = all.filter((it) => it[7] === 'host');
  const external = all.filter((it) => it[7] === 'srflx').map((it) => endpoint(it[4], it[5]));
  for (const udp of report ? [report.ipv4.udp, report.ipv6.udp] : []) {
    const isDirect = sure(udp && udp.mapping) === 'direct';
    const ips = isDirect ? distinct((udp.external || []).map((at) => parts(at).ip)) : [];
    external.push(...ips.flatMap((ip) => hosts.map((it) => endpoint(ip, it[5]))));
  }
  const shown = hosts.filter((it) => /^[0-9.]+$/.test(it[4])).map((it) => endpoint(it[4], it[5]));
  return { external: distinct(external), lan: distinct(shown), port: hosts.length ? Number(hosts[0][5]) : null };
}

/** The port of the next mapping, where it follows from the last one or from the local port. */
function nextPort(own, { external, port }) {
  if (!own.udp || !own.ports || isFixed(own)) return null;
  if (own.ports.policy === 'preserving') return port && { port, step: 1 };
  if (own.ports.policy !== 'sequential' || !own.ports.delta || !external.length) return null;
  return { port: atStep(parts(external[0]).port, own.ports.delta, 1), step: own.ports.delta };
}

/** The port so many steps on, within the ports that NATs use. */
function atStep(port, step, count) {
  const size = 65536 - 1024;
  return ((((port - 1024 + step * count) % size) + size) % size) + 1024;
}

/** What is expected of a pair, by the table of nat-check's engine. */
function predict(own, peer, isNeighbour) {
  const word = (value) => value || 'unknown';
  const kind = (it) => (it.udp ? `${word(it.mapping)}/${word(it.filtering)}/${word(it.ports && it.ports.policy)}` : 'udp-blocked');
  const unknown = (why) => ({ outcome: 'unknown', probability: null, technique: null, why });
  const of = (...sides) => {
    const [a, b] = sides.map((it) => PAIRS.index[kind(it)]);
    return a === undefined || b === undefined ? unknown('unknown') : PAIRS.outcomes[PAIRS.pairs[a][b]];
  };
  const expected = of(own.behaviour, peer.behaviour);
  if (expected.outcome !== 'direct') {
    const over6 = own.ipv6 && peer.ipv6 ? of(own.ipv6, peer.ipv6) : expected;
    return over6.technique === 'simultaneous' ? { ...over6, technique: 'ipv6', why: 'ipv6' } : expected;
  }
  if (isNeighbour && !(own.behaviour.hairpinning && peer.behaviour.hairpinning)) return unknown('neighbours');
  const both = own.remaps === true && peer.remaps === true;
  return both && isBrowser(peer) ? unknown('remaps') : expected;
}

const isBrowser = (offer) => Boolean(offer.ice && offer.ice.fingerprint);

/** Candidates of the peer, in the form that browsers take, the most likely one first. */
function candidates(offer, round, peerIp, isNeighbour) {
  const known = (round.at || []).length ? round.at : offer.external || [];
  const guessed = round.next
    ? Array.from({ length: GUESSES }, (_, n) => endpoint(peerIp, atStep(round.next.port, round.next.step, n))) : [];
  const ends = distinct([...(isNeighbour ? offer.lan || [] : []), ...known]).concat(guessed);
  const own = ends.map((at, n) => {
    const { ip, port } = parts(at);
    return `candidate:${n + 1} 1 udp ${2122260223 - 256 * n} ${ip} ${port} typ host`;
  });
  return { lines: [...(round.candidates || []).slice(0, 12), ...own], guessed: new Set(guessed) };
}

const randomFingerprint = () => [...crypto.getRandomValues(new Uint8Array(32))]
  .map((byte) => byte.toString(16).padStart(2, '0').toUpperCase()).join(':');

/** The statistics of all pairs, and the best one that works. */
async function statistics(pc) {
  const stats = await pc.getStats();
  const pairs = [...stats.values()].filter((it) => it.type === 'candidate-pair');
  const works = pairs.filter((it) => it.state === 'succeeded');
  const best = works.find((it) => it.nominated) || works[0];
  const remote = best && stats.get(best.remoteCandidateId);
  const address = remote && (remote.address || remote.ip);
  const sum = (...names) => pairs.reduce((all, it) => all + names.reduce((n, name) => n + (it[name] || 0), 0), 0);
  return {
    works: Boolean(best),
    remote: address && !address.endsWith('.local') ? endpoint(address, remote.port) : null,
    rtt: best && best.currentRoundTripTime !== undefined ? best.currentRoundTripTime : null,
    sent: sum('requestsSent', 'responsesSent'),
    heard: sum('requestsReceived', 'responsesReceived'),
  };
}

/** Checks until a pair works, or nothing is to be hoped for. */
async function attempt(connection, until) {
  for (;;) {
    const now = await statistics(connection.pc);
    if (now.works || performance.now() >= until || connection.pc.iceConnectionState === 'closed') return now;
    await wait(40);
  }
}

function sideReport({ behaviour: it, external }, natType) {
  return {
    nat_type: natType ?? null, mapping: it.mapping ?? null, filtering: it.filtering ?? null,
    ports: (it.ports && it.ports.policy) ?? null, external: external || [],
  };
}

/** Meets the peer, from the introduction to the report. */
async function punch() {
  const code = decodeURIComponent(location.pathname.slice(3)).replace(/\/+$/, '');
  const rendezvous = new Rendezvous(code);
  let connection = null;
  try {
    const measured = measure().then(({ report }) => report, () => null);
    const welcome = await rendezvous.hear('welcome', 10000);
    if (!code) invite((await rendezvous.hear('waiting', 10000)).code);
    const paired = await rendezvous.hear('paired');
    say(words.met);
    rendezvous.rtt = await rendezvous.timed('ping', 'pong');
    const report = await measured;
    const udp = report && report.ipv4.udp;
    // A report that there is none leaves everything open.
    const own = report ? behaviour(report.ipv4) : { udp: true };
    const isMoving = own.mapping && !isFixed(own);
    // The first mapping of a socket keeps its port, so that it must not go to a STUN server.
    const keeps = isMoving && own.ports && own.ports.policy === 'preserving';
    const stun = keeps ? [] : welcome.stun.filter((at) => !at.startsWith('[')).map((at) => ({ urls: `stun:${at}` }));
    connection = new Connection(0, null, stun);
    await connection.offer();
    await Promise.race([connection.gathered, wait(own.udp ? 2500 : 300)]);
    const here = found(connection.lines, report);
    // Over IPv6 nothing but its own address is known, and only where that is the one that is seen.
    const has6 = here.external.some((at) => at.startsWith('['));
    const offer = {
      type: 'offer', nonce: hex(16), behaviour: own, lan: here.lan, external: here.external,
      techniques: ['lan', 'simultaneous', 'low-ttl', 'ipv6', 'prediction'],
      ipv6: has6 ? behaviour(report.ipv6) : null,
      tcp: null, remaps: remaps(udp), opener_ttl: null, rtt_ms: Math.round(rendezvous.rtt), hold_ms: HOLD, prepares: false,
      ice: { ufrag: connection.ufrag, password: connection.password, fingerprint: connection.fingerprint },
    };
    const peer = await rendezvous.exchange(offer);
    if (!peer.ice) throw words.old;
    const introduced = performance.now();
    const isNeighbour = paired.you === paired.peer;
    const expected = predict(offer, peer, isNeighbour);
    tellPrediction(expected);
    const isFirst = paired.role === 'first';
    await connection.answer({
      ...peer.ice, candidates: [], fingerprint: peer.ice.fingerprint || randomFingerprint(),
      // Two browsers both take the other one for the one that answers; the second one begins DTLS.
      setup: isBrowser(peer) && !isFirst ? 'passive' : 'active',
    });
    const round = { type: 'round-candidates', at: here.external, next: nextPort(own, here), candidates: connection.lines.slice(0, 12) };
    const theirs = await rendezvous.exchange(round);
    const { lines, guessed } = candidates(peer, theirs, paired.peer, isNeighbour);
    await wait(startDelay(offer, peer));
    await connection.add(lines);
    const begun = performance.now();
    const result = await attempt(connection, begun + WINDOW);
    const first = performance.now() - introduced;
    const to = distinct(lines.map((line) => line.split(' ')).filter((it) => !it[4].endsWith('.local')).map((it) => endpoint(it[4], it[5])));
    const told = await rendezvous.exchange({ type: 'round-report', through: result.works, sent: result.sent, heard: result.heard, to });
    const through = result.works || told.through;
    let end = result;
    let viaServer = null;
    let held = 0;
    if (through) {
      say(words.through);
      viaServer = await rendezvous.timed('peer-ping', 'peer-pong').catch(() => null);
      const hold = Math.min(HOLD, peer.hold_ms);
      await rendezvous.exchange({ type: 'round-report', through, sent: 0, heard: 0, to: [] }).then(() => wait(hold)).then(() => { held = hold; }).catch(() => {});
      end = await statistics(connection.pc);
    }
    const remote = end.remote || result.remote;
    const technique = through ? usedTechnique(remote, guessed, peer, expected) : null;
    const english = ENGLISH.why;
    return {
      version: 1, tool: (report && report.tool) || 'probe-server page', partial: false,
      punch: {
        outcome: through ? 'direct' : 'failed', technique, local: null, remote, rtt_s: end.rtt ?? result.rtt,
        rtt_via_server_s: viaServer && viaServer / 1000, first_packet_s: through ? first / 1000 : null, rounds: 1,
        held_s: through ? held / 1000 : null, loss: null, jitter_s: null, packets: end.sent,
        predicted: { ...expected, assumed: false, why: english[expected.why] },
        self: sideReport(offer, sure(udp && udp.nat_type)), peer: sideReport(peer), role: paired.role,
        attempts: [{
          technique: technique || expected.technique || 'simultaneous', through, seen_as: here.external,
          peer_seen_as: theirs.at || [], to, peer_to: told.to || [], sent: result.sent, heard: result.heard, refused: 0,
          peer_sent: told.sent ?? null, peer_heard: told.heard ?? null,
        }],
        why: english[expected.why], warnings: [english.browser],
      },
    };
  } finally {
    rendezvous.close();
    if (connection) connection.pc.close();
  }
}

function usedTechnique(remote, guessed, peer, expected) {
  if (guessed.has(remote)) return 'prediction';
  if (remote && (peer.lan || []).includes(remote)) return 'lan';
  if (remote && remote.startsWith('[')) return 'ipv6';
  return expected.technique || 'simultaneous';
}

/** How long this side waits with its checks, where a router gives a port to whoever sends first. */
function startDelay(own, peer) {
  const isHarmless = own.remaps === false && peer.remaps === false;
  // nat-check opens its gateway meanwhile, and sends further only later.
  if (!isBrowser(peer)) return isHarmless ? 0 : 500;
  return peer.remaps === true && own.remaps !== true ? 700 : 0;
}

const hex = (bytes) => [...crypto.getRandomValues(new Uint8Array(bytes))].map((byte) => byte.toString(16).padStart(2, '0')).join('');

/** What the other one needs. */
function invite(code) {
  root.dataset.code = code;
  const link = document.createElement('a');
  link.href = `/p/${code}`;
  link.textContent = `${location.origin}/p/${code}`;
  byId('result').replaceChildren(words.invite, link);
}

function tellPrediction({ outcome, probability, why }) {
  const chance = probability === null ? '' : ` (${(probability * 100).toFixed(1)} %)`;
  const line = document.createElement('p');
  line.textContent = `${words.predicted}${words.outcomes[outcome]}${chance}. ${words.why[why]}.`;
  byId('result').replaceChildren(line);
  root.dataset.predicted = outcome;
  say(words.checking);
}

/** The outcome first, then what it was expected to be. */
function showPunch({ punch: it }) {
  const section = document.createElement('section');
  section.className = `answer ${it.outcome}`;
  const add = (name, text) => {
    const element = document.createElement(name);
    element.textContent = text;
    section.append(element);
    return element;
  };
  add('p', words.outcomes[it.outcome]).className = 'level';
  if (it.outcome === 'direct') {
    add('p', [it.remote, it.technique, it.rtt_s === null ? '' : `${(it.rtt_s * 1000).toFixed(1)} ms`].filter(Boolean).join(', '));
  }
  add('p', words.why.browser);
  byId('result').prepend(section);
}
