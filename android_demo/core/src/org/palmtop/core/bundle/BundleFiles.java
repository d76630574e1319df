package org.palmtop.core.bundle;

import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.Charset;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HashSet;
import java.util.Set;
import org.palmtop.core.PalmtopException;

/** Files of a bundle folder: where they are, how large, what hash ({@code runtime/bundle/opening.py}). */
final class BundleFiles {
    static final Charset UTF_8 = Charset.forName("UTF-8");
    private static final int BLOCK_BYTES = 1 << 20;
    private static final int MAX_NAME_BYTES = 255;

    private BundleFiles() {}

    /** {@code folder / name}, refusing names that are absolute, climb out, or lead out through a link. */
    static File inside(File folder, String name) {
        if (name.indexOf('\0') >= 0) {
            throw PalmtopException.bundle(
                    folder + ": file '" + name.replace("\0", "\\x00") + "': is not a possible file name (embedded null byte)");
        }
        String pure = pure(name);
        boolean climbs = ("/" + pure + "/").contains("/../");
        if (name.startsWith("/") || pure.isEmpty() || climbs || name.contains("\\") || name.contains(":")) {
            throw PalmtopException.bundle(folder + ": file name '" + name + "' leads out of the bundle");
        }
        for (String part : pure.split("/")) {
            if (part.getBytes(UTF_8).length > MAX_NAME_BYTES) {
                throw unreadable(folder + ": file '" + name + "'", "File name too long");
            }
        }
        File path = new File(folder, pure);
        try {
            if (!path.getCanonicalPath().startsWith(folder.getCanonicalPath() + File.separator)) {
                throw PalmtopException.bundle(
                        folder + ": file '" + name + "' is a link that leads out of the bundle");
            }
        } catch (IOException error) {
            throw unreadable(folder + ": file '" + name + "'", error.getMessage());
        }
        return path;
    }

    /** Refuse files that the manifest does not list: a graph could read its weights from them, unchecked. */
    static void refuseUnlisted(File folder, Manifest manifest) {
        Set<String> listed = new HashSet<String>();
        listed.add(JsonFields.MANIFEST_FILE);
        for (String name : manifest.files.keySet()) {
            listed.add(pure(name));
        }
        refuseUnlisted(folder, folder, "", listed);
    }

    private static void refuseUnlisted(File root, File folder, String prefix, Set<String> listed) {
        File[] entries = folder.listFiles();
        if (entries == null) {
            throw unreadable(root.toString(), "cannot list " + folder);
        }
        for (int pass = 0; pass < 2; pass++) { // files of a folder come before those of the folders in it
            for (File entry : entries) {
                String name = entry.getName();
                boolean isFolder = entry.isDirectory();
                if (name.startsWith(".") || (!isFolder && name.endsWith(".md"))) {
                    continue; // what desktops, git and model hubs leave beside a bundle
                }
                boolean isPlainFolder = isFolder && !isLink(folder, name);
                if (isPlainFolder && pass == 1) {
                    refuseUnlisted(root, entry, prefix + name + "/", listed);
                } else if (!isPlainFolder && pass == 0 && !listed.contains(prefix + name)) {
                    throw PalmtopException.bundle(root + ": file '" + prefix + name + "' is not in "
                            + JsonFields.MANIFEST_FILE + ", expected it elsewhere");
                }
            }
        }
    }

    /** Without java.nio.file, which Android has from 8 on. */
    private static boolean isLink(File folder, String name) {
        try {
            File real = new File(folder.getCanonicalFile(), name);
            return !real.getCanonicalFile().equals(real.getAbsoluteFile());
        } catch (IOException error) {
            return true;
        }
    }

    /** A file's bytes as text. */
    static String readText(File path, long maxBytes) throws IOException {
        if (path.length() > maxBytes) {
            throw PalmtopException.bundle(
                    path + ": has " + path.length() + " bytes, expected at most " + maxBytes);
        }
        byte[] content = new byte[(int) path.length()];
        try (InputStream stream = new FileInputStream(path)) {
            int at = 0;
            for (int count; at < content.length && (count = stream.read(content, at, content.length - at)) > 0; ) {
                at += count;
            }
        }
        return UTF_8.newDecoder().decode(ByteBuffer.wrap(content)).toString();
    }

    /** The document in a file; {@code whatItIs} ends the sentence for one that is not JSON. */
    static Object readJson(File path, long maxBytes, String whatItIs) {
        String text;
        try {
            text = readText(path, maxBytes);
        } catch (CharacterCodingException error) {
            throw PalmtopException.bundle(path + ": " + whatItIs + " (it is not UTF-8)");
        } catch (IOException error) {
            throw unreadable(path.toString(), error.getMessage());
        }
        try {
            return Json.parse(text);
        } catch (Json.SyntaxException error) {
            throw PalmtopException.bundle(path + ": " + whatItIs + " (" + error.getMessage() + ")");
        }
    }

    /** Hash in lower-case hexadecimal; {@code told} is called for every block and may throw to stop. */
    static String sha256(File path, BundleProgress told) {
        MessageDigest digest;
        try {
            digest = MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException error) {
            throw new AssertionError(error); // every Java has it
        }
        byte[] block = new byte[BLOCK_BYTES];
        try (InputStream stream = new FileInputStream(path)) {
            for (int count; (count = stream.read(block)) > 0; ) {
                digest.update(block, 0, count);
                if (told != null) {
                    told.onBytes(count);
                }
            }
        } catch (IOException error) {
            throw unreadable(path.toString(), error.getMessage());
        }
        StringBuilder text = new StringBuilder();
        for (byte value : digest.digest()) {
            text.append(Character.forDigit((value >> 4) & 15, 16)).append(Character.forDigit(value & 15, 16));
        }
        return text.toString();
    }

    static PalmtopException unreadable(String what, String why) {
        return PalmtopException.bundle(what + ": cannot be read (" + why + ")");
    }

    /** The name without empty parts and single dots. */
    private static String pure(String name) {
        StringBuilder result = new StringBuilder();
        for (String part : name.split("/")) {
            if (!part.isEmpty() && !part.equals(".")) {
                result.append(result.length() > 0 ? "/" : "").append(part);
            }
        }
        return result.toString();
    }
}
