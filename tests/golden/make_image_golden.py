#!/usr/bin/python3
"""Makes images/ and images.json: tiny pictures of odd kinds, and what Pillow reads out of them.

    tests/golden/make_image_golden.py

Lossless files are to be read to the bit; JPEG within two steps (Pillow brings its own conversion of
CMYK). Pillow 9.4 (Debian's python3-pil, on the same libjpeg-turbo) was used.
"""

import io
import json
import os
import struct
import zlib

from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "images")


def chunk(kind, body):
    crc = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def png(w, h, depth, colour, rows, extra=b"", interlace=0):
    """rows: bytes of each row without its filter byte."""
    data = b"".join(b"\0" + r for r in rows)
    head = struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, interlace)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + extra
        + chunk(b"IDAT", zlib.compress(data, 9))
        + chunk(b"IEND", b"")
    )


def over_black(pixels):
    return [(c * p[3] + 127) // 255 for p in pixels for c in p[:3]]


def lossless():
    """name -> (bytes, w, h, expected RGB). Expected values are worked out here, not read back."""
    out = {}
    grey = [(37 * i + 11) % 256 for i in range(12)]
    rows = [bytes(grey[4 * y : 4 * y + 4]) for y in range(3)]
    out["grey8.png"] = (png(4, 3, 8, 0, rows), 4, 3, [v for g in grey for v in (g, g, g)])
    # Two pixels of four bits a byte.
    rows = [bytes([0x0F, 0x84]), bytes([0x37, 0xC1])]
    want = [v * 17 for v in (0, 15, 8, 4, 3, 7, 12, 1)]
    out["grey4.png"] = (png(4, 2, 4, 0, rows), 4, 2, [v for g in want for v in (g, g, g)])
    # 16 bits: the upper byte is what counts; lower bytes differ to tell the byte order.
    rgb16 = [((9 * i) % 256, (255 - 7 * i) % 256) for i in range(12)]
    rows = [b"".join(bytes(v) for v in rgb16[6 * y : 6 * y + 6]) for y in range(2)]
    out["rgb16.png"] = (png(2, 2, 16, 2, rows), 2, 2, [v[0] for v in rgb16])
    # Palette of four with alpha for the first three.
    palette = [(255, 0, 0, 255), (0, 200, 100, 128), (10, 20, 240, 0), (250, 250, 90, 255)]
    extra = chunk(b"PLTE", b"".join(bytes(p[:3]) for p in palette)) + chunk(
        b"tRNS", bytes(p[3] for p in palette[:3])
    )
    index = [0, 1, 2, 3, 3, 2, 1, 0]
    rows = [
        bytes([index[4 * y] << 6 | index[4 * y + 1] << 4 | index[4 * y + 2] << 2 | index[4 * y + 3]])
        for y in range(2)
    ]
    out["palette_alpha.png"] = (
        png(4, 2, 2, 3, rows, extra),
        4,
        2,
        over_black([palette[i] for i in index]),
    )
    rgba = [(200, 100, 50, 0), (200, 100, 50, 64), (200, 100, 50, 191), (200, 100, 50, 255)]
    out["rgba.png"] = (
        png(2, 2, 8, 6, [b"".join(map(bytes, rgba[:2])), b"".join(map(bytes, rgba[2:]))]),
        2,
        2,
        over_black(rgba),
    )
    ga = [(240, 255), (240, 100), (30, 0)]
    out["grey_alpha.png"] = (
        png(3, 1, 8, 4, [b"".join(map(bytes, ga))]),
        3,
        1,
        over_black([(g, g, g, a) for g, a in ga]),
    )
    # A colour that counts as clear.
    out["rgb_key.png"] = (
        png(2, 1, 8, 2, [bytes([9, 8, 7, 90, 80, 70])], chunk(b"tRNS", struct.pack(">HHH", 9, 8, 7))),
        2,
        1,
        [0, 0, 0, 90, 80, 70],
    )
    # Interlaced 2x2: passes 1, 6 and 7 hold pixels.
    px = [(1, 2, 3), (40, 50, 60), (70, 80, 90), (100, 110, 120)]
    rows = [bytes(px[0]), bytes(px[1]), bytes(px[2] + px[3])]
    out["interlaced.png"] = (
        png(2, 2, 8, 2, rows, interlace=1),
        2,
        2,
        [v for p in px for v in p],
    )
    return out


def scene(w, h):
    """Smooth enough for JPEG, and different in every corner."""
    im = Image.new("RGB", (w, h))
    im.putdata(
        [
            (255 * x // (w - 1), 255 * y // (h - 1), 255 - 127 * x // (w - 1) - 127 * y // (h - 1))
            for y in range(h)
            for x in range(w)
        ]
    )
    return im


def jpeg(image, **options):
    f = io.BytesIO()
    image.save(f, "JPEG", quality=95, subsampling=0, optimize=True, **options)
    return f.getvalue()


def exif(orientation, big):
    """APP1 body with one directory of two entries."""
    e = ">" if big else "<"
    tiff = (b"MM" if big else b"II") + struct.pack(e + "HI", 42, 8)
    tiff += struct.pack(e + "H", 2)
    tiff += struct.pack(e + "HHII", 0x0100, 4, 1, 24)
    tiff += struct.pack(e + "HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff += struct.pack(e + "I", 0)
    return b"Exif\0\0" + tiff


def lossy():
    """name -> (bytes, expected image)."""
    out = {}
    im = scene(16, 12)
    for o in range(1, 9):
        data = jpeg(im, exif=exif(o, o % 2 == 0))
        turned = Image.open(io.BytesIO(data))
        from PIL import ImageOps

        out["exif%d.jpg" % o] = (data, ImageOps.exif_transpose(turned).convert("RGB"))
    data = jpeg(im.convert("L"))
    out["grey.jpg"] = (data, Image.open(io.BytesIO(data)).convert("RGB"))
    data = jpeg(im, progressive=True)
    out["progressive.jpg"] = (data, Image.open(io.BytesIO(data)).convert("RGB"))
    # Pillow writes CMYK with Adobe's marker, inverted.
    data = jpeg(im.convert("CMYK"))
    assert b"Adobe" in data
    out["cmyk_adobe.jpg"] = (data, im)
    # The same without the marker: inks as they are. Stored inverted by Pillow, so invert before.
    from PIL import ImageChops

    plain = jpeg(ImageChops.invert(im.convert("CMYK")))
    at = plain.index(b"\xff\xee")
    size = struct.unpack(">H", plain[at + 2 : at + 4])[0]
    out["cmyk.jpg"] = (plain[:at] + plain[at + 2 + size :], im)
    return out


def main():
    os.makedirs(OUT, exist_ok=True)
    cases = []
    for name, (data, w, h, rgb) in lossless().items():
        with open(os.path.join(OUT, name), "wb") as f:
            f.write(data)
        cases.append({"file": name, "size": [w, h], "within": 0, "rgb": rgb})
    for name, (data, image) in lossy().items():
        with open(os.path.join(OUT, name), "wb") as f:
            f.write(data)
        within = 8 if "cmyk" in name else 2
        cases.append(
            {
                "file": name,
                "size": list(image.size),
                "within": within,
                "rgb": list(image.tobytes()),
            }
        )
    with open(os.path.join(HERE, "images.json"), "w") as f:
        f.write('{"cases": [\n')
        f.write(",\n".join(json.dumps(c, separators=(",", ":")) for c in cases))
        f.write("\n]}\n")


if __name__ == "__main__":
    main()
