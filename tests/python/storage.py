"""A ZODB storage for tests: made, written to through a real ZEO server, packed, looked through.

    storage.py fill SITE COUNT          so many transactions, each with documents and a blob
    storage.py serve SITE PORT          a ZEO server, until it is terminated
    storage.py write PORT SITE RATE     commits through it until terminated; a line for each: its id
    storage.py pack PORT                packs through it
    storage.py look SITE                JSON: all transactions, blobs missing, faults, and whether it can be opened

SITE has filestorage/Data.fs and blobstorage.
"""
import hashlib
import json
import os
import random
import signal
import sys
import time

import transaction
from BTrees.OOBTree import OOBTree
from persistent.mapping import PersistentMapping
from ZODB import DB
from ZODB.blob import Blob, is_blob_record
from ZODB.FileStorage import FileStorage
from ZODB.POSException import POSKeyError
from ZODB.scripts import fstest
from ZODB.serialize import referencesf


def data_fs(site):
    return os.path.join(site, "filestorage", "Data.fs")


def blob_dir(site):
    return os.path.join(site, "blobstorage")


def open_storage(site, read_only=False):
    if not read_only:
        os.makedirs(os.path.dirname(data_fs(site)), exist_ok=True)
        os.makedirs(blob_dir(site), exist_ok=True)
    return FileStorage(data_fs(site), read_only=read_only, blob_dir=blob_dir(site))


def change(documents, chance, number):
    """Adds, rewrites or removes a document; most have a blob of which the document knows the hash."""
    keys = list(documents.keys())
    if len(keys) > 30 and chance.random() < 0.1:
        del documents[chance.choice(keys)]
    content = chance.randbytes(chance.choice([0, 1, 500, 20_000]))
    if keys and chance.random() < 0.4:
        document = documents[chance.choice(list(documents.keys()))]
        with document["blob"].open("w") as file:
            file.write(content)
    else:
        document = documents[f"document-{number}"] = PersistentMapping(blob=Blob(content))
    document["hash"] = hashlib.sha256(content).hexdigest()
    document["text"] = " ".join(chance.choices(["échantillon", "analyse", "lot", "µg/l"], k=chance.randrange(400)))


def fill(site, count):
    database = DB(open_storage(site))
    root = database.open().root()
    if "documents" not in root:
        root["documents"] = OOBTree()
    chance = random.Random(1)
    for number in range(int(count)):
        change(root["documents"], chance, number)
        transaction.commit()
    database.close()


def serve(site, port):
    os.makedirs(os.path.dirname(data_fs(site)), exist_ok=True)
    os.makedirs(blob_dir(site), exist_ok=True)
    from ZEO.runzeo import main

    conf = os.path.join(site, "zeo.conf")
    with open(conf, "w") as file:
        file.write(
            f"<zeo>\n address 127.0.0.1:{port}\n pid-filename {site}/zeo.pid\n</zeo>\n<filestorage 1>\n"
            f" path {data_fs(site)}\n blob-dir {blob_dir(site)}\n</filestorage>\n"
        )
    main(["-C", conf])


def client(port, site=None):
    from ZEO.ClientStorage import ClientStorage

    shared = dict(blob_dir=blob_dir(site), shared_blob_dir=True) if site else {}
    return ClientStorage(("127.0.0.1", int(port)), wait_timeout=60, **shared)


def write(port, site, rate):
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    database = DB(client(port, site))
    root = database.open().root()
    if "documents" not in root:
        root["documents"] = OOBTree()
    chance, begin, number = random.Random(2), time.monotonic(), 0
    while not stop:
        change(root["documents"], chance, f"live-{number}")
        root["number"] = number
        transaction.commit()
        print(root._p_serial.hex(), flush=True)
        number += 1
        time.sleep(max(0, begin + number / float(rate) - time.monotonic()))
    database.close()


def pack(port):
    storage = client(port)
    storage.pack(time.time(), wait=1)
    storage.close()


def look(site):
    faults, missing, tids = [], [], []
    try:
        fstest.check(data_fs(site))
    except fstest.FormatError as error:
        faults.append(f"fstest: {error}")
    storage = open_storage(site, read_only=True)
    current = {}
    for found in storage.iterator():
        tids.append(found.tid.hex())
        for record in found:
            if record.data and is_blob_record(record.data):
                path = storage.fshelper.getBlobFilename(record.oid, record.tid)
                if not os.path.exists(path):
                    missing.append(path)
            if record.data:
                current[record.oid] = record.tid
            else:
                current.pop(record.oid, None)
    references = []
    for oid in current:
        referencesf(storage.load(oid)[0], references)
    faults += [f"object {oid.hex()} is referenced and not there" for oid in set(references) if oid not in current]
    files = sum(name.endswith(".blob") for _, _, names in os.walk(blob_dir(site)) for name in names)
    documents = DB(storage).open().root().get("documents", {})
    for key, document in documents.items():
        try:
            with document["blob"].open("r") as file:
                if hashlib.sha256(file.read()).hexdigest() != document["hash"]:
                    faults.append(f"the blob of {key} is another one")
        except POSKeyError as error:
            faults.append(f"the blob of {key}: {error}")
    print(json.dumps(dict(tids=tids, missing=missing, faults=faults, blob_files=files, documents=len(documents))))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
