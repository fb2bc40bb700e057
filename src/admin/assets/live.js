'use strict';
// Shows what the gateway pushes; where it cannot, asks for the page anew now and then.
const main = document.querySelector('main');
const live = document.getElementById('live');
const box = document.createElement('template');
let waiting = 0;

function tell(text, state) {
  live.textContent = text;
  live.className = state;
  document.body.className = state;
}

// Makes `now` like `next` and touches only what differs: what is selected stays selected.
function patch(now, next) {
  if (now.nodeName !== next.nodeName) { now.replaceWith(next); return; }
  if (now.nodeType === Node.TEXT_NODE) {
    if (now.data !== next.data) now.data = next.data;
    return;
  }
  for (const { name } of [...now.attributes]) if (!next.hasAttribute(name)) now.removeAttribute(name);
  for (const { name, value } of next.attributes) {
    if (now.getAttribute(name) !== value) now.setAttribute(name, value);
  }
  const children = [...next.childNodes];
  while (now.childNodes.length > children.length) now.lastChild.remove();
  children.forEach((child, i) => {
    if (now.childNodes[i]) patch(now.childNodes[i], child); else now.append(child);
  });
}

function show(html) {
  box.innerHTML = html;
  const next = box.content.querySelector('main');
  if (!next) return;
  patch(main, next);
  document.title = main.dataset.title;
}

// While it drains the gateway pushes no more, but still answers.
async function ask() {
  try {
    const page = await (await fetch('./', { cache: 'no-store' })).text();
    show(new DOMParser().parseFromString(page, 'text/html').querySelector('main').outerHTML);
    tell('asking now and then', 'slow');
  } catch {
    tell('no answer: what stands here is old', 'lost');
  }
  waiting = setTimeout(listen, 3000);
}

function listen() {
  clearTimeout(waiting);
  const events = new EventSource('events');
  events.onmessage = (event) => {
    show(event.data);
    tell('live', 'live');
  };
  events.onerror = () => {
    events.close();
    ask();
  };
}

listen();
