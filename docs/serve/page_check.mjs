// Drive the page of a running `palmtop serve` in headless Chromium, check its answers, and write the screenshots.
//
//   npm install playwright-core
//   palmtop serve "$(palmtop demo --where)" &
//   node docs/serve/page_check.mjs http://127.0.0.1:8080/ /usr/bin/chromium
//
// Exits with 1 at the first wrong answer, request elsewhere, error in the console, or control without a name.
import assert from "node:assert/strict";
import {readFileSync} from "node:fs";
import {chromium} from "playwright-core";

const [url, executablePath] = process.argv.slice(2);
const here = new URL(".", import.meta.url).pathname;
const sample = name => readFileSync(`${here}/../../runtime/reference/samples/${name}`).toString("base64");
const args = ["--no-sandbox", "--disable-gpu", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"];
const browser = await chromium.launch({executablePath, args: [...args, "--disable-background-networking"]});

async function drop(page, name, type) {
  await page.evaluate(([data, name, type]) => {
    const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0)), transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, {type}));
    document.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
  }, [sample(name), name, type]);
  await page.waitForSelector(type.startsWith("image") ? "#attached img" : "#attached audio");
}
async function answered(page, expected) {
  await page.waitForFunction(() => {
    const answers = document.querySelectorAll("article.assistant");
    return document.getElementById("stop").hidden && answers.length && answers[answers.length - 1].querySelector(".cost, .error");
  });
  const text = await page.locator("article.assistant").last().innerText();
  assert.match(text, expected);
}
async function ask(page, text, expected) {
  await page.fill("#text", text);
  await page.press("#text", "Enter");
  await answered(page, expected);
}

for (const [width, height] of [[390, 844], [1280, 800]]) for (const scheme of ["light", "dark"]) {
  const page = await browser.newPage({viewport: {width, height}, colorScheme: scheme});
  page.on("console", message => {  // a refused request is logged by the browser itself
    if (!message.text().startsWith("Failed to load resource")) assert.notEqual(message.type(), "error", message.text());
  });
  page.on("pageerror", error => assert.fail(error.message));
  page.on("request", request => assert.match(request.url(), new RegExp(`^(${url}|data:|blob:)`)));
  await page.goto(url);
  await page.waitForFunction(() => document.getElementById("state").textContent === "ready");
  await drop(page, "image.png", "image/png");
  await ask(page, "What is it?", /303[^]*vision/);
  await page.screenshot({path: `${here}/page-${width}-${scheme}.png`});
  const unnamed = await page.evaluate(() => [...document.querySelectorAll("button,input:not([hidden]),select,textarea")]
    .filter(node => !node.textContent && !node.labels?.length && !node.ariaLabel).map(node => node.outerHTML));
  assert.deepEqual(unnamed, []);
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth > innerWidth), false);
  if (width === 390) {
    await page.click("#toggle");
    if (scheme === "light") await page.screenshot({path: `${here}/settings-${width}-light.png`});
  } else {
    await page.click("#clear");
    await drop(page, "audio.wav", "audio/wav");
    await ask(page, "What is it?", /753[^]*speech/);
    await page.click("article.user button:text('Edit')");
    await page.click("#attached button");
    await ask(page, "digits: two eight nine. What is it?", /289[^]*no adapter/);
    await page.click("button:text('Retry')");
    await answered(page, /289/);
    await page.fill("#weights", "nothing=1");
    await ask(page, "And now?", /adapter 'nothing'/);
    await page.fill("#weights", "");
    await page.click("#record");
    await page.waitForFunction(() => document.getElementById("state").textContent === "recording");
    await page.waitForTimeout(700);
    await page.click("#record");
    await page.waitForSelector("#attached audio");
    await page.click("#attached button");
    await page.fill("#max_tokens", "5000");
    await page.fill("#temperature", "2");
    await page.fill("#text", "Tell.");
    await page.press("#text", "Enter");
    await page.waitForSelector("#stop:not([hidden])");
    await page.keyboard.press("Escape");
    await page.waitForFunction(() => document.getElementById("state").textContent === "stopped");
    await page.reload();
  }
  await page.close();
}
await browser.close();
console.log("the page works");
