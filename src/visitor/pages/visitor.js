// The visitor's page: its socket makes the visitor online, for as long as the page is open.
'use strict';

const FIRST_WAIT = 500; // ms
const LONGEST_WAIT = 30000; // ms
const POINTER_EVERY = 60; // ms
const RESUME = 'cobrowse.resume';

const byId = (id) => document.getElementById(id);
let socket = null;
let failures = 0;
let watched = false;
let pointerSent = 0;
let hideTimer = 0;

// A browser may refuse storage; the page then is a new visitor after each reload.
const stored = {
  get() { try { return sessionStorage.getItem(RESUME); } catch { return null; } },
  set(token) { try { sessionStorage.setItem(RESUME, token); } catch { /* see above */ } },
};

function send(message) {
  if (!socket || socket.readyState !== WebSocket.OPEN) return false;
  socket.send(JSON.stringify(message));
  return true;
}

function showState(text, state) {
  byId('state').textContent = text;
  byId('state').dataset.state = state;
}

function showVisitor(visitor) {
  byId('short-id').textContent = visitor.short_id;
  byId('lookup-code').textContent = visitor.lookup_code ?? '–';
}

function fillForm(visitor) {
  const name = visitor.call_name ?? visitor.identities.find((text) => !text.includes('@'));
  byId('name').value ||= name ?? '';
  byId('email').value ||= visitor.email ?? '';
  byId('tags').value ||= visitor.tags.join(' ');
}

function showSession(agents) {
  watched = agents.length > 0;
  byId('session').hidden = !watched;
  byId('session').textContent = watched ? `${agents.join(', ')} can see this page` : '';
}

function showHint(agent, text) {
  const hint = document.createElement('p');
  hint.textContent = `${agent}: ${text}`;
  byId('hints').append(hint);
  setTimeout(() => hint.remove(), 12000);
}

function showPointer(x, y) {
  const dot = byId('pointer');
  dot.hidden = false;
  dot.style.left = `${x * 100}vw`;
  dot.style.top = `${y * 100}vh`;
  clearTimeout(hideTimer);
  hideTimer = setTimeout(() => { dot.hidden = true; }, 4000);
}

function receive(message) {
  switch (message.type) {
    case 'welcome':
      failures = 0;
      stored.set(message.resume);
      showState('You are online', 'active');
      showVisitor(message.visitor);
      fillForm(message.visitor);
      // Without query and fragment: they may hold what is nobody's business.
      send({ type: 'page', url: location.origin + location.pathname });
      break;
    case 'state': showVisitor(message.visitor); break;
    case 'session': showSession(message.agents); break;
    case 'hint': showHint(message.agent, message.text); break;
    case 'pointer': showPointer(message.x, message.y); break;
    case 'error': byId('answer').textContent = message.message; break;
  }
}

function connect() {
  const url = new URL('visitor/socket', document.baseURI);
  url.protocol = url.protocol.replace('http', 'ws');
  // A second subprotocol carries the resume token: in the URL it would end up in logs.
  const protocols = ['cobrowse.visitor'];
  const resume = stored.get();
  if (resume) protocols.push(`resume.${resume}`);
  socket = new WebSocket(url, protocols);
  socket.onmessage = (event) => receive(JSON.parse(event.data));
  socket.onclose = () => {
    showState('Not connected', 'waiting');
    showSession([]);
    failures += 1;
    // Jitter: after a restart not all visitors come back at once.
    const wait = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** failures) * (0.5 + Math.random() / 2);
    setTimeout(connect, wait);
  };
}

byId('identify').addEventListener('submit', (event) => {
  event.preventDefault();
  const [name, email] = [byId('name').value.trim(), byId('email').value.trim()];
  const tags = byId('tags').value.split(/\s+/).filter(Boolean);
  const sent = send({
    type: 'identify',
    callName: name || null,
    identities: [name, email].filter(Boolean),
    tags,
  });
  byId('answer').textContent = sent ? 'Thank you.' : 'Not connected; please try again.';
});

document.addEventListener('pointermove', (event) => {
  const now = performance.now();
  if (!watched || now - pointerSent < POINTER_EVERY) return;
  pointerSent = now;
  const part = (at, size) => Math.min(1, Math.max(0, at / size));
  send({
    type: 'pointer',
    x: part(event.clientX, window.innerWidth),
    y: part(event.clientY, window.innerHeight),
  });
});

connect();
