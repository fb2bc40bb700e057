// The agent's screen: shows the visitor's state as it changes and sends hints to the visitor.
'use strict';

const config = JSON.parse(document.getElementById('config').textContent);
const mirror = document.getElementById('mirror');
const pointer = document.getElementById('pointer');
const embedded = window.parent !== window;

const FIRST_WAIT = 500; // ms
const LONGEST_WAIT = 15000; // ms
// A token that has expired cannot connect any more; a few tries tell that from a bad network.
const TRIES = 6;

let socket = null;
let tries = 0;
let over = false;
let hideTimer = 0;

// Carries no visitor data and no token, so any parent may read it.
function tellParent(message) {
  if (embedded) window.parent.postMessage(message, '*');
}

function showStatus(text, state) {
  const line = document.getElementById('status');
  if (line) {
    line.textContent = text;
    line.dataset.state = state;
  }
  tellParent({ type: 'sessionStatusUpdate', status: state });
}

function showState(visitor) {
  const values = {
    ...visitor,
    is_online: visitor.is_online ? 'yes' : 'no',
    identities: visitor.identities.join(', '),
    tags: visitor.tags.join(' '),
  };
  for (const row of document.querySelectorAll('[data-fact]')) {
    row.textContent = values[row.dataset.fact] ?? '';
  }
  document.getElementById('address').textContent = visitor.last_url ?? 'No page seen yet';
  mirror.classList.toggle('offline', !visitor.is_online);
  if (visitor.is_online) showStatus('Watching', 'active');
  else showStatus('The visitor is not connected', 'waiting');
}

function showPointer(x, y) {
  pointer.hidden = false;
  pointer.style.left = `${x * 100}%`;
  pointer.style.top = `${y * 100}%`;
  clearTimeout(hideTimer);
  hideTimer = setTimeout(() => { pointer.hidden = true; }, 4000);
}

function send(message) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function finish(reason) {
  if (over) return;
  over = true;
  if (socket) socket.close();
  showStatus(reason === 'ended' ? 'The session has ended' : 'The connection was lost', 'terminated');
  tellParent({ type: 'sessionEnded', reason });
  const retry = document.getElementById('retry');
  if (reason === 'error' && config.retry_url && retry) {
    retry.hidden = false;
    retry.firstElementChild.href = config.retry_url;
    return;
  }
  if (config.on_end_url) window.location.replace(config.on_end_url);
  else if (!embedded) window.close();
}

function connect() {
  const url = new URL('screen/socket', document.baseURI);
  url.search = window.location.search;
  url.protocol = url.protocol.replace('http', 'ws');
  socket = new WebSocket(url);
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    tries = 0;
    if (message.type === 'state') showState(message.visitor);
    else if (message.type === 'pointer') showPointer(message.x, message.y);
  };
  socket.onclose = () => {
    if (over) return;
    tries += 1;
    if (tries > TRIES) return finish('error');
    showStatus('Connecting …', 'waiting');
    // Jitter: after a restart not all screens come back at once.
    const wait = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** tries) * (0.5 + Math.random() / 2);
    setTimeout(() => { if (!over) connect(); }, wait);
  };
}

function end() {
  send({ type: 'end' });
  finish('ended');
}

mirror.addEventListener('click', (event) => {
  if (!config.permissions.allow_draw) return;
  const box = mirror.getBoundingClientRect();
  const part = (at, from, size) => Math.min(1, Math.max(0, (at - from) / size));
  send({
    type: 'pointer',
    x: part(event.clientX, box.left, box.width),
    y: part(event.clientY, box.top, box.height),
  });
});

document.getElementById('end')?.addEventListener('click', end);
document.getElementById('hint')?.addEventListener('submit', (event) => {
  event.preventDefault();
  const input = document.getElementById('hint-text');
  if (input.value.trim()) send({ type: 'hint', text: input.value.trim() });
  input.value = '';
});

// Orders of the page around the iframe. Only our parent gives orders; the exact words of the
// vendor are not published beyond `action`.
window.addEventListener('message', (event) => {
  if (!embedded || event.source !== window.parent || !event.data) return;
  const { action, text, x, y } = event.data;
  if (action === 'end') end();
  else if (action === 'hint') send({ type: 'hint', text });
  else if (action === 'pointer') send({ type: 'pointer', x, y });
});

showState(config.visitor);
connect();
