"""A real Roundup tracker for the tests: makes one, writes into it, looks at one that was restored.

    tracker.py up HOME [--issues N] [--database DATABASE]   a tracker; with DATABASE on PostgreSQL, of PGHOST and so on
    tracker.py write HOME LOG                               commits until standard input ends; a line of LOG for each
    tracker.py check HOME [LOG]                             prints a line of JSON; fails with what is wrong
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import warnings

warnings.simplefilter("ignore")

CONFIG = """\
[main]
database = db
password_pbkdf2_default_rounds = 1000
[tracker]
web = http://tracker.example/
[mail]
domain = example.org
host = localhost
[rdbms]
backend = {backend}
"""


def admin(home, *words):
    program = os.path.join(os.path.dirname(sys.executable), "roundup-admin")
    run = subprocess.run([sys.executable, "-W", "ignore", program, "-i", home, *words], capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"roundup-admin {' '.join(words)}: {run.stdout}{run.stderr}")
    return run.stdout


def opened(home):
    from roundup import instance

    return instance.open(home).open("admin")


def digest(content):
    return hashlib.sha256(content).hexdigest()


def add(db, chance, title):
    """One issue with messages and files, not yet committed."""
    messages = []
    for _ in range(chance.randint(1, 3)):
        content = " ".join(chance.choices(["imprimante", "écran", "réseau", "日本", "mot de passe"], k=chance.randint(3, 300)))
        messages.append(db.msg.create(author="1", summary=content[:20], content=content))
    files = []
    for number in range(chance.choice([0, 1, 2])):
        content = chance.randbytes(chance.choice([0, 1, 5000, 90000]))
        files.append(db.file.create(name=f"pièce {number}", type="application/octet-stream", content=content))
    return db.issue.create(title=title, messages=messages, files=files, priority="1", status="1")


def up(home, issues, database):
    backend = "postgresql" if database else "sqlite"
    admin(home, "install", "classic", "sqlite")
    config = CONFIG.format(backend=backend)
    if database:
        for key in ("host", "port", "user"):
            config += f"{key} = {os.environ.get('PG' + key.upper(), '')}\n"
        config += f"name = {database}\npassword = {os.environ.get('PGPASSWORD', '')}\n"
    with open(os.path.join(home, "config.ini"), "w", encoding="utf-8") as file:
        file.write(config)
    admin(home, "initialise", "admin")
    db, chance = opened(home), random.Random(1)
    for number in range(issues):
        add(db, chance, f"issue {number}")
    db.commit()
    db.close()


def write(home, log):
    stopped = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stopped.set()), daemon=True).start()
    db, chance, number = opened(home), random.Random(2), 0
    with open(log, "w", encoding="utf-8") as lines:
        while not stopped.is_set():
            issue = add(db, chance, f"written {number}")
            db.commit()
            held = {
                name + item: digest(db.getclass(name).get(item, "binary_content"))
                for name, key in (("msg", "messages"), ("file", "files"))
                for item in db.issue.get(issue, key)
            }
            lines.write(json.dumps({"issue": issue, "held": held}) + "\n")
            lines.flush()
            number += 1
    db.close()


def listed(home):
    """What roundup-admin lists, by number."""
    return {line.strip().split(":")[0] for line in admin(home, "list", "issue").splitlines() if ":" in line}


def check(home, log):
    issues = listed(home)
    db = opened(home)
    wrong = []
    if issues != set(db.issue.list()):
        wrong.append("roundup-admin lists other issues than there are")
    for name in ("msg", "file"):
        for item in db.getclass(name).getnodeids():
            try:
                db.getclass(name).get(item, "binary_content")
            except OSError as error:
                wrong.append(f"{name}{item}: {error}")
    held = [json.loads(line) for line in open(log, encoding="utf-8")] if log else []
    there = [db.issue.hasnode(commit["issue"]) for commit in held]
    count = there.index(False) if False in there else len(there)
    if any(there[count:]):
        wrong.append(f"commit {count} is not there, a later one is")
    for commit in held[:count]:
        for item, expected in commit["held"].items():
            name = item.rstrip("0123456789")
            if digest(db.getclass(name).get(item[len(name):], "binary_content")) != expected:
                wrong.append(f"{item} has another content")
    if db.config.RDBMS_BACKEND == "sqlite":
        db.cursor.execute("pragma integrity_check")
        found = db.cursor.fetchone()[0]
        if found != "ok":
            wrong.append(found)
    db.close()
    if wrong:
        sys.exit("\n".join(wrong[:10]))
    print(json.dumps({"issues": len(issues), "commits": count}))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["up", "write", "check"])
    parser.add_argument("home")
    parser.add_argument("log", nargs="?")
    parser.add_argument("--issues", type=int, default=20)
    parser.add_argument("--database")
    given = parser.parse_args()
    if given.verb == "up":
        up(given.home, given.issues, given.database)
    elif given.verb == "write":
        write(given.home, given.log)
    else:
        check(given.home, given.log)


main()
