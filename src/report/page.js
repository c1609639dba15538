'use strict';
document.documentElement.classList.add('js');

// The walk: one frame at a time, by slider or as a film that runs while it is in view.
document.querySelectorAll('.walk').forEach(function (walk) {
  var frames = walk.querySelectorAll('.frames figure');
  var slider = walk.querySelector('input');
  var button = walk.querySelector('button');
  var timer = null;
  function show(n) {
    frames.forEach(function (frame, i) { frame.classList.toggle('on', i === n); });
    slider.value = n;
  }
  function stop() { clearInterval(timer); timer = null; button.textContent = 'Play'; }
  function play() {
    if (timer === null) {
      timer = setInterval(function () { show((Number(slider.value) + 1) % frames.length); }, 750);
      button.textContent = 'Pause';
    }
  }
  slider.max = frames.length - 1;
  slider.addEventListener('input', function () { stop(); show(Number(slider.value)); });
  button.addEventListener('click', function () { if (timer === null) { play(); } else { stop(); } });
  show(frames.length - 1);
  var calm = window.matchMedia('(prefers-reduced-motion: reduce)').matches;
  if (!calm && 'IntersectionObserver' in window) {
    var started = false;
    new IntersectionObserver(function (entries) {
      entries.forEach(function (entry) {
        if (!entry.isIntersecting) { stop(); }
        else if (!started) { started = true; show(0); play(); }
      });
    }, { threshold: 0.5 }).observe(walk);
  }
});

// The affinities around a pixel. Planes are bytes: 0 to 254 for W = 0 to 1, 255 where there is no pair.
document.querySelectorAll('.stage').forEach(function (stage) {
  var data = stage.dataset;
  var h = Number(data.height), w = Number(data.width), beta = Number(data.beta);
  var bytes = Uint8Array.from(atob(data.planes), function (c) { return c.charCodeAt(0); });
  var offsets = data.offsets.split(' ').map(function (pair) { return pair.split(',').map(Number); });
  var canvas = stage.querySelector('canvas');
  var slider = stage.parentNode.querySelector('input');
  var output = stage.parentNode.querySelector('output');
  var context = canvas.getContext('2d');
  var grid = document.createElement('canvas');
  grid.width = w; grid.height = h;
  var gridContext = grid.getContext('2d');

  // Both directions of every pair: neighbours[i] = [pixel, affinity, pixel, affinity, ...].
  var neighbours = Array.from({ length: h * w }, function () { return []; });
  offsets.forEach(function (offset, plane) {
    for (var i = 0; i !== h * w; i++) {
      var byte = bytes[plane * h * w + i];
      var y = Math.floor(i / w) + offset[0], x = i % w + offset[1];
      if (byte === 255 || y >= h || x >= w || 0 > x) { continue; }
      neighbours[i].push(y * w + x, byte / 254);
      neighbours[y * w + x].push(i, byte / 254);
    }
  });
  var powers = neighbours.map(function (list) {
    return list.map(function (v, k) { return k % 2 ? Math.pow(v, beta) : v; });
  });
  var degree = powers.map(function (list) {
    return list.reduce(function (sum, v, k) { return k % 2 ? sum + v : sum; }, 1);
  });

  // Row `from` of T to the power t, by t steps of a row vector: where the pixel's scores come from.
  function row(from, steps) {
    var now = new Float32Array(h * w), next = new Float32Array(h * w);
    now[from] = 1;
    for (var t = 0; t !== steps; t++) {
      next.fill(0);
      for (var i = 0; i !== h * w; i++) {
        if (now[i] === 0) { continue; }
        var share = now[i] / degree[i], list = powers[i];
        next[i] += share;
        for (var k = 0; k !== list.length; k += 2) { next[list[k]] += share * list[k + 1]; }
      }
      var other = now; now = next; next = other;
    }
    return now;
  }

  var at = Math.floor(h / 2) * w + Math.floor(w / 2);
  function draw() {
    var index = Number(slider.value), steps = index === 0 ? 0 : Math.pow(2, index - 1);
    output.textContent = index === 0 ? 'affinities' : 'walk, t = ' + steps;
    var values = new Float32Array(h * w).fill(-1), top = 0;
    if (index === 0) {
      for (var k = 0; k !== neighbours[at].length; k += 2) { values[neighbours[at][k]] = neighbours[at][k + 1]; }
      values[at] = 1; top = 1;
    } else {
      values = row(at, steps);
      // The pixel itself keeps most of a short walk; the scale is that of the others.
      values.forEach(function (v, i) { if (v > top && i !== at) { top = v; } });
      top = top || 1;
    }
    var picture = gridContext.createImageData(w, h);
    values.forEach(function (v, i) {
      // The square root keeps small shares visible; cells that are no neighbours stay dark.
      var share = 0 > v ? 0 : Math.min(1, index === 0 ? v : Math.sqrt(v / top));
      picture.data[4 * i] = 20 + 235 * share;
      picture.data[4 * i + 1] = 20 + 195 * share * share;
      picture.data[4 * i + 2] = 28 + 60 * share * share * share;
      picture.data[4 * i + 3] = 0 > v ? 120 : 120 + 85 * share;
    });
    gridContext.putImageData(picture, 0, 0);
    canvas.width = canvas.clientWidth * (window.devicePixelRatio || 1);
    canvas.height = canvas.clientHeight * (window.devicePixelRatio || 1);
    context.imageSmoothingEnabled = false;
    context.drawImage(grid, 0, 0, canvas.width, canvas.height);
    var cw = canvas.width / w, ch = canvas.height / h;
    context.lineWidth = Math.max(2, canvas.width / 250);
    context.strokeStyle = '#fff';
    context.strokeRect(at % w * cw, Math.floor(at / w) * ch, cw, ch);
  }
  var waiting = false;
  function later() {
    if (!waiting) { waiting = true; requestAnimationFrame(function () { waiting = false; draw(); }); }
  }
  function point(event) {
    var box = canvas.getBoundingClientRect();
    var x = Math.floor((event.clientX - box.left) / box.width * w);
    var y = Math.floor((event.clientY - box.top) / box.height * h);
    at = Math.min(h - 1, Math.max(0, y)) * w + Math.min(w - 1, Math.max(0, x));
    later();
  }
  stage.addEventListener('pointermove', point);
  stage.addEventListener('pointerdown', point);
  slider.addEventListener('input', later);
  window.addEventListener('resize', later);
  draw();
});
