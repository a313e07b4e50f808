"""Looks at the dashboard in headless Chromium: dashboard.py PORT PICTURES COMMAND ARGUMENT...

COMMAND is what to look at; the tests in test_dashboard.sh call it. Pictures of each page, at the width of a
desktop and of a phone, light and dark, are left in the folder PICTURES.
"""
import json
import os
import subprocess
import sys
import time

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

PORT, PICTURES, COMMAND, *ARGUMENTS = sys.argv[1:]
BASE = f"http://127.0.0.1:{PORT}/"


def browser():
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))


def wait(what, test, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            got = test()
        except Exception:  # the page changes under our hands
            got = None
        if got:
            return got
        time.sleep(0.1)
    sys.exit(f"did not come: {what}\n{page.find_element(By.TAG_NAME, 'body').text}")


def go(fragment, heading):
    page.get(BASE + "#/" + fragment)
    wait(heading, lambda: heading in page.find_element(By.TAG_NAME, "h1").text)
    wait("the stream", lambda: page.find_element(By.ID, "live").text in ("live", "complete"))


def text():
    return page.find_element(By.TAG_NAME, "main").text


def size(width, height=900, dark=False):
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                         {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})
    page.execute_cdp_cmd("Emulation.setEmulatedMedia",
                         {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})


def charts():
    """Charts that are shown, and of them those with something drawn in the theme's colours."""
    return page.execute_script("""
        return [...document.querySelectorAll("figure.chart")].filter(f => !f.hidden).map(f => {
          const c = f.querySelector("canvas"), p = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
          let drawn = 0;
          for (let i = 0; i < p.length; i += 4) drawn += p[i + 3] > 200 && Math.max(p[i], p[i+1], p[i+2]) - Math.min(p[i], p[i+1], p[i+2]) > 60;
          return [f.querySelector("figcaption").textContent, drawn, c.getAttribute("aria-label")];
        })""")


def pictures(name):
    """At both widths and in both themes nothing overflows the page; leaves pictures."""
    for width in (1280, 390):
        for dark in (False, True):
            size(width, dark=dark)
            time.sleep(0.5)
            whole = page.execute_script("return document.documentElement.scrollWidth")
            assert whole <= width, f"{name}: {whole} wide in a window of {width}"
            height = page.execute_script("return document.documentElement.scrollHeight")
            size(width, min(height, 5000), dark)
            time.sleep(0.3)
            path = os.path.join(PICTURES, f"{name}-{width}-{'dark' if dark else 'light'}.png")
            assert page.save_screenshot(path)
    size(1280)


def complaints():
    """What the browser has complained of: scripts, the policy, files that are missing."""
    # `rendering`: that charts() reads their pixels is slow.
    bad = [e for e in page.get_log("browser") if e["level"] in ("SEVERE", "WARNING") and e["source"] != "rendering"]
    assert not bad, json.dumps(bad, indent=1)


def live(job):
    """A job that runs: its figures move without a reload, its state changes when it ends."""
    go("", "Jobs")
    row = lambda: wait("the job's row", lambda: [r for r in page.find_elements(By.CSS_SELECTOR, "tbody tr") if job in r.text])[0]
    at = lambda: int(row().find_element(By.TAG_NAME, "progress").get_attribute("value"))
    wait("running", lambda: "running" in row().text and row().find_elements(By.TAG_NAME, "progress"))
    first = at()
    wait("a step", lambda: at() != first)
    pictures("jobs-live")
    go("job/" + job, "dashboard")
    curve = lambda: [c for c in charts() if c[0] == "Training loss" and c[1] > 100]
    label = wait("a curve of the loss", curve)[0][2]
    wait("more of it", lambda: curve()[0][2] != label)
    events = lambda: len(page.find_elements(By.CSS_SELECTOR, ".events li"))
    before = wait("events", events)
    wait("a new event", lambda: events() > before, 60)
    pictures("job-live")
    # Hidden pages let their stream go; it comes back with the page.
    page.execute_script("Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
                        "document.dispatchEvent(new Event('visibilitychange'))")
    time.sleep(1)
    page.execute_script("Object.defineProperty(document, 'hidden', {value: false, configurable: true});"
                        "document.dispatchEvent(new Event('visibilitychange'))")
    subprocess.run([os.path.join(os.environ["KD_BUILD_DIR"], "distill"), "cancel", job], check=True, capture_output=True)
    wait("its end", lambda: "cancelled" in page.find_element(By.TAG_NAME, "h1").text)
    seqs = page.execute_script("return [...document.querySelectorAll('.events li')].map(e => e.textContent)")
    assert len(seqs) == len(set(seqs)), "an event stands there twice"


def finished(job):
    """All that is known of a finished job."""
    go("job/" + job, "dashboard")
    wait("succeeded", lambda: "succeeded" in page.find_element(By.TAG_NAME, "h1").text)
    wait("pictures", lambda: page.find_elements(By.CSS_SELECTOR, ".pictures img"))
    names = wait("curves", lambda: {c[0] for c in charts() if c[1] > 50})
    for name in ("Training loss", "Validation loss", "Accuracy", "Learning rate", "Shares of the loss's terms in the gradient", "Throughput", "Time of a step"):
        assert name in names, (name, names)
    said = text()
    for part in ("from its teacher", "from-scratch twin", "95 % INTERVAL", "Logit bank", "Where step time goes", "compute",
                 "Who is taken for whom", "student ✓", "teacher", "Fingerprint", "submitted"):
        assert part.lower() in said.lower(), part
    # A class that is called like markup is text.
    assert "<img src=x onerror=alert(1)>" in said
    assert not page.find_elements(By.CSS_SELECTOR, 'main img[src="x"]')
    page.find_element(By.ID, "stage-teacher").click()
    wait("another stage", lambda: page.find_element(By.ID, "stage-teacher").get_attribute("aria-pressed") == "true")
    pictures("job")


def compared(*jobs):
    """Two jobs by their boxes, with the keyboard alone; a sweep by its button."""
    go("", "Jobs")
    for job in jobs[:2]:
        box = wait("a box", lambda: page.find_element(By.ID, "choose-" + job))
        page.execute_script("arguments[0].focus()", box)
        page.switch_to.active_element.send_keys(Keys.SPACE)
    wait("two chosen", lambda: "Compare 2 jobs" in text())
    page.execute_script("document.getElementById('compare').focus()")
    page.switch_to.active_element.send_keys(Keys.ENTER)
    wait("the comparison", lambda: "2 jobs side by side" in page.find_element(By.TAG_NAME, "h1").text)
    wait("what differs", lambda: "distill.loss.temperature" in text())
    drawn = wait("curves", lambda: [c for c in charts() if c[1] > 50])
    assert len(drawn) == 3 and "temperature=1" in drawn[0][2] and "temperature=5" in drawn[0][2], drawn
    pictures("compare")


def sweep(parent):
    go("job/" + parent, "dashboard")
    wait("groups", lambda: "Groups" in text() and "Best by validation" in text())
    pictures("sweep")
    page.find_element(By.LINK_TEXT, "Compare 2 jobs").click()
    wait("the comparison", lambda: "2 jobs side by side" in page.find_element(By.TAG_NAME, "h1").text)


def others():
    go("workers", "Workers")
    wait("a worker", lambda: "one" in text() and "Fingerprint".lower() in text().lower())
    pictures("workers")
    go("storage", "Storage")
    wait("the bank", lambda: "Logits" in text())
    pictures("storage")
    go("compare", "Compare")
    wait("a list", lambda: page.find_elements(By.NAME, "job"))
    pictures("choose")
    # The theme is kept, and stronger than the system's.
    for theme in ("light", "dark"):
        page.find_element(By.ID, "theme").click()
        assert page.find_element(By.ID, "theme").text == "Theme: " + theme
    dark = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    page.refresh()
    wait("the theme", lambda: page.execute_script("return getComputedStyle(document.body).backgroundColor") == dark)
    assert dark == "rgb(15, 19, 25)", dark
    page.execute_script("localStorage.clear()")
    # By keyboard: the first stop leads past the header.
    go("workers", "Workers")
    page.refresh()
    wait("the page", lambda: "one" in text())
    webdriver.ActionChains(page).send_keys(Keys.TAB).perform()
    assert page.switch_to.active_element.get_attribute("textContent") == "Skip to the content"
    page.switch_to.active_element.send_keys(Keys.ENTER)
    assert page.switch_to.active_element.get_attribute("id") == "main"
    complaints()
    # What is not there is said.
    page.get(BASE + "#/job/0000ffff")
    wait("the reason", lambda: "no job 0000ffff here" in text())
    page.get_log("browser")  # the browser's own line about the 404


page = browser()
try:
    {f.__name__: f for f in (live, finished, compared, sweep, others)}[COMMAND](*ARGUMENTS)
    complaints()
finally:
    page.quit()
