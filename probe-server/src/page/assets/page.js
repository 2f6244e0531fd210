// The browser's half of the measurement. It opens connections (RTCPeerConnection) as the server tells it, and reports what
// only the browser knows: local ports, whether its own address is the one that the server sees, and hairpinning.

const CHINESE = {
  title: '您前面是什么 NAT？',
  about: '本页测量此浏览器与互联网之间的 NAT 或防火墙，并说明两台主机之间能否直接连接（打洞）。',
  start: '开始测量',
  again: '再次测量',
  note: '大约需要三秒钟，会向本服务器发送约一百个小数据包。在 Mac 上，系统可能会询问是否允许浏览器查找本地网络上的设备：如何回答不影响结果。',
  raw: 'JSON 报告',
  copy: '复制',
  copied: '已复制',
  contact: '正在连接服务器……',
  filtering: '正在测试过滤行为……',
  mapping: '正在测试映射行为……',
  done: '测量完成。',
  refused: '服务器现在不能测量此浏览器：',
  lost: '与服务器的连接已中断。',
  forbidden: '此浏览器没有 WebRTC，或者已被设置、策略或扩展禁用。请改用 nat-check。',
  udp: '此浏览器不提供 UDP：设置、策略或扩展禁用了它。请改用 nat-check。',
  peerTitle: '直接连接另一台主机',
  peerAbout: '本页让此浏览器与对方（运行 nat-check punch 的主机，或另一个浏览器）直接建立连接（打洞）。对方会得知您的外部地址。',
  connect: '连接',
  peerNote: '请只与信任的人共享此链接。先测量此网络，大约需要三秒钟。',
  met: '对方已到。正在测量此网络……',
  checking: '正在尝试连接……',
  through: '已直接连接，正在保持……',
  invite: '请在另一台主机上打开：',
  left: '对方已离开。',
  silent: '对方没有响应。',
  old: '对方的 nat-check 版本太旧，不能与浏览器连接。',
  refusedJoin: '服务器拒绝：',
  refusals: { 'unknown-code': '没有使用此代码的会话在等待：它可能已过期或已被使用。', 'too-fast': '请求太多，请稍后再试。', full: '服务器已满，请稍后再试。', expired: '会话已过期。' },
  predicted: '预测：',
  outcomes: { direct: '可以直接连接', failed: '不能直接连接', unknown: '不确定' },
  why: {
    'both-send': '双方的第一个数据包会让各自的 NAT 放行对方的数据包',
    'one-sends': '任何人都可以向其中一方发送',
    predict: '一方的端口随目的地变化，但下一个端口可以预测',
    ports: '必须猜测大量端口，浏览器做不到',
    'no-udp': '有一方的 UDP 被阻断',
    ipv6: '在 IPv6 上没有端口需要猜测',
    unknown: '对至少一方所知太少',
    neighbours: '双方在同一个 NAT 之后，没有迹象表明它会把数据包转回',
    remaps: '双方的路由器都把端口给先发送者，而浏览器无法发送提前失效的数据包',
    browser: '浏览器不能通过 TCP 连接，不能选择端口，也不能猜测大量端口；在两边都运行 nat-check 可能更有效。',
  },
};
const ENGLISH = {
  again: 'Measure again',
  copied: 'Copied',
  contact: 'Contacting the server …',
  filtering: 'Testing the filter …',
  mapping: 'Testing the mapping …',
  done: 'Done.',
  refused: 'The server cannot measure this browser now: ',
  lost: 'The connection to the server was lost.',
  forbidden: 'This browser has no WebRTC, or a setting, a policy or an extension forbids it. Run nat-check instead.',
  udp: 'This browser offers no UDP: a setting, a policy or an extension forbids it. Run nat-check instead.',
  peerTitle: 'Connect directly to another host',
  peerAbout: 'This page connects this browser directly (hole punching) to a peer: a host that runs nat-check punch, or another browser. The peer learns your external address.',
  connect: 'Connect',
  peerNote: 'Share the link only with whom you trust. Your network is measured first, which takes about three seconds.',
  met: 'The peer is here. Measuring this network …',
  checking: 'Trying to connect …',
  through: 'Connected directly; keeping the path open …',
  invite: 'Open on the other host: ',
  left: 'The peer has left.',
  silent: 'The peer does not answer.',
  old: 'The nat-check of the peer is too old to meet a browser.',
  refusedJoin: 'The server refuses: ',
  refusals: {
    'unknown-code': 'No session waits under this code: it may have expired, or been used.',
    'too-fast': 'Too many requests: try again later.',
    full: 'The server is full: try again later.',
    expired: 'The session has expired.',
  },
  predicted: 'Predicted: ',
  outcomes: { direct: 'Direct connection', failed: 'No direct connection', unknown: 'Not known' },
  why: {
    'both-send': 'each side’s first packet makes its own gateway let the other’s packets in',
    'one-sends': 'anybody can send to one of the two, so the other one just sends',
    predict: 'the port of one side changes with the destination, but the next one can be predicted',
    ports: 'ports would have to be guessed by the hundred, which a browser cannot',
    'no-udp': 'UDP is blocked on one side',
    ipv6: 'over IPv6 no port has to be guessed',
    unknown: 'too little is known of at least one side',
    neighbours: 'both are behind the same NAT, and nothing shows that it turns packets back',
    remaps: 'both routers give the port to whoever sends first, and a browser cannot send packets that expire on the way',
    browser: 'A browser cannot connect over TCP, choose its ports, or guess ports by the hundred: nat-check on both sides may do better.',
  },
};

const root = document.documentElement;
const byId = (id) => document.getElementById(id);
const isChinese = (navigator.languages || [navigator.language]).map((l) => String(l).toLowerCase())
  .find((l) => l.startsWith('zh') || l.startsWith('en'))?.startsWith('zh') ?? false;
const words = isChinese ? CHINESE : ENGLISH;

const isPeer = location.pathname.startsWith('/p/');
if (isPeer) {
  Object.assign(words, { title: words.peerTitle, about: words.peerAbout, start: words.connect, note: words.peerNote });
  document.title = words.title;
  document.querySelectorAll('[data-text]').forEach((element) => {
    element.textContent = words[element.dataset.text] || element.textContent;
  });
}
if (isChinese) {
  root.lang = 'zh-Hans';
  document.title = isPeer ? words.title : 'NAT 检测';
  for (const element of document.querySelectorAll('[data-text]')) element.textContent = words[element.dataset.text];
}

const say = (text) => { byId('status').textContent = text; };

function fail(text) {
  say(text);
  root.dataset.state = 'failed';
  byId('start').disabled = false;
}

/** One connection: its credentials at once, its local ports as soon as they are known. */
class Connection {
  constructor(number, tell, servers) {
    this.number = number;
    this.tell = tell;
    this.pc = new RTCPeerConnection({ iceServers: servers || [] });
    this.pc.createDataChannel('nat');
    this.lines = [];
    this.gathered = new Promise((resolve) => {
      this.pc.onicecandidate = ({ candidate }) => {
        if (!candidate || !candidate.candidate) return resolve();
        this.lines.push(candidate.candidate);
        if (this.online) this.online(candidate.candidate);
      };
    });
  }

  async offer() {
    const offer = await this.pc.createOffer();
    await this.pc.setLocalDescription(offer);
    const sdp = this.pc.localDescription.sdp;
    this.ufrag = /a=ice-ufrag:(\S+)/.exec(sdp)[1];
    this.password = /a=ice-pwd:(\S+)/.exec(sdp)[1];
    this.fingerprint = /a=fingerprint:sha-256 (\S+)/i.exec(sdp)[1];
    if (this.tell) {
      this.tell({ type: 'offer', connection: this.number, ufrag: this.ufrag, password: this.password });
      Promise.race([this.gathered, wait(1500)]).then(() =>
        this.tell({ type: 'gathered', connection: this.number, bases: bases(this.lines) }));
    }
  }

  /** The other side, which never speaks anything but STUN: with `active` the browser waits for it. */
  async answer({ ufrag, password, fingerprint, candidates, setup = 'active' }) {
    const sdp = ['v=0', 'o=- 1 1 IN IP4 0.0.0.0', 's=-', 't=0 0', 'a=group:BUNDLE 0',
      'm=application 9 UDP/DTLS/SCTP webrtc-datachannel', 'c=IN IP4 0.0.0.0', 'a=mid:0', `a=ice-ufrag:${ufrag}`,
      `a=ice-pwd:${password}`, 'a=ice-options:trickle', `a=fingerprint:sha-256 ${fingerprint}`, `a=setup:${setup}`,
      'a=sctp-port:5000', ''].join('\r\n');
    await this.pc.setRemoteDescription({ type: 'answer', sdp });
    await this.add(candidates);
  }

  async add(candidates) {
    for (const candidate of candidates) {
      await this.pc.addIceCandidate({ candidate, sdpMid: '0', sdpMLineIndex: 0 }).catch(() => {});
    }
  }
}

const wait = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

/** Host candidates over UDP: browsers hide their address, but not their port. */
function bases(lines) {
  return lines.map((line) => line.split(' '))
    .filter((parts) => parts[2].toLowerCase() === 'udp' && parts[7] === 'host')
    .map((parts) => ({ priority: Number(parts[3]), port: Number(parts[5]) })).slice(0, 16);
}

/** Pairs over which this connection got an answer, and of which kind its own end is there. */
async function workingPairs(pc) {
  const stats = await pc.getStats();
  const pairs = [];
  for (const pair of stats.values()) {
    if (pair.type !== 'candidate-pair' || pair.state !== 'succeeded') continue;
    const local = stats.get(pair.localCandidateId);
    const remote = stats.get(pair.remoteCandidateId);
    const address = remote && (remote.address || remote.ip);
    if (local && address) pairs.push({ remote: address, local: local.candidateType });
  }
  return pairs;
}

async function watchPairs(connection, tell, isOver) {
  const known = new Set();
  while (!isOver()) {
    const pairs = (await workingPairs(connection.pc).catch(() => [])).filter(({ remote }) => !known.has(remote));
    if (pairs.length) {
      pairs.forEach(({ remote }) => known.add(remote));
      tell({ type: 'pairs', pairs });
    }
    await wait(40);
  }
}

/** Two connections of this page that know each other's external addresses only. */
async function hairpin(stun, tell, connections) {
  const servers = stun.slice(0, 1).map((urls) => ({ urls }));
  const [a, b] = [new Connection(0, null, servers), new Connection(1, null, servers)];
  connections.push(a, b);
  const external = (line) => line.split(' ')[7] === 'srflx' && line.split(' ')[2].toLowerCase() === 'udp';
  const found = [a, b].map((side) => new Promise((resolve) => {
    side.online = (line) => { if (external(line)) resolve(line); };
    side.gathered.then(() => wait(50)).then(() => resolve(null));
    wait(2200).then(() => resolve(null));
  }));
  await a.offer();
  await b.offer();
  const lines = await Promise.all(found);
  if (!lines[0] || !lines[1]) return tell({ type: 'hairpin', state: 'no-address' });
  a.pc.oniceconnectionstatechange = () => {
    if (['connected', 'completed'].includes(a.pc.iceConnectionState)) tell({ type: 'hairpin', state: 'connected' });
  };
  // Each takes the other for a peer that waits for it: nothing but STUN flows.
  const side = (of, line) => ({ ufrag: of.ufrag, password: of.password, fingerprint: of.fingerprint, candidates: [line] });
  tell({ type: 'hairpin', state: 'trying' });
  await Promise.all([a.answer(side(b, lines[1])), b.answer(side(a, lines[0]))]);
}

function measure() {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/see`);
    const connections = [];
    const numbered = [];
    let over = false;
    const tell = (message) => { if (!over && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message)); };
    const end = (settle, value) => {
      over = true;
      for (const { pc } of connections) pc.close();
      socket.close();
      settle(value);
    };
    socket.onclose = () => { if (!over) end(reject, words.lost); };
    socket.onmessage = async ({ data }) => {
      const message = JSON.parse(data);
      const connection = numbered[message.connection];
      switch (message.type) {
        case 'begin':
          if (isChinese) tell({ type: 'chinese' });
          for (let number = 0; number < message.connections && !over; number += 1) {
            const made = new Connection(number, tell);
            numbered.push(made);
            connections.push(made);
            await made.offer();
            if (number === 3) hairpin(message.stun, tell, connections).catch(() => {});
          }
          break;
        case 'answer':
          await connection.answer(message).catch(() => {});
          if (message.connection === 0) tell({ type: 'ready' });
          if (message.connection === 2 || message.connection === 3) watchPairs(connection, tell, () => over);
          break;
        case 'candidates':
          await connection.add(message.candidates);
          break;
        case 'step':
          say(words[message.step]);
          break;
        case 'report':
          end(resolve, message);
          break;
        case 'refused':
          end(reject, words.refused + message.reason);
          break;
      }
    };
  });
}

/** What is to be kept of it, and how it is shown. */
async function measured() {
  const { report, html } = await measure();
  byId('result').innerHTML = html;
  return report;
}

async function met() {
  const document = await punch();
  showPunch(document);
  return document;
}

async function run() {
  byId('start').disabled = true;
  root.dataset.state = 'running';
  if (typeof RTCPeerConnection !== 'function') return fail(words.forbidden);
  try {
    const report = await (isPeer ? met() : measured());
    const text = JSON.stringify(report, null, 2);
    const holder = byId('report') || document.createElement('script');
    holder.id = 'report';
    holder.type = 'application/json';
    holder.textContent = text;
    document.body.append(holder);
    byId('json').textContent = text;
    byId('raw').hidden = false;
    byId('start').textContent = words.again;
    byId('start').disabled = false;
    say(words.done);
    root.dataset.state = 'done';
  } catch (error) {
    fail(typeof error === 'string' ? error : String(error));
  }
}

byId('start').addEventListener('click', run);
byId('copy').addEventListener('click', async () => {
  await navigator.clipboard?.writeText(byId('json').textContent);
  byId('copy').textContent = words.copied;
});
if (new URLSearchParams(location.search).get('auto') === '1') run();
