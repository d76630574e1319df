package org.palmtop.app.logic;

import java.io.File;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.palmtop.core.PalmtopException;
import org.palmtop.core.bundle.PalmtopBundle;

/** The models on this phone: one folder each, in the app's own storage. Also where adb may put one. */
public final class ModelShelf {
    /** A folder that is being written; never shown, removed at the next start. */
    static final String UNFINISHED = ".unfinished-";

    private static final int MAX_CHOICE_BYTES = 4096;

    /** One model. */
    public static final class Model {
        public final File folder;
        public final String name;
        public final long sizeBytes;
        /** Null when the folder is no usable model; then {@code trouble} says why. */
        public final PalmtopBundle bundle;
        public final Trouble trouble;
        public final String detail;

        Model(File folder, PalmtopBundle bundle, Trouble trouble, String detail) {
            this.folder = folder;
            this.name = folder.getName();
            this.bundle = bundle;
            this.sizeBytes = bundle == null ? bytesIn(folder) : bundle.sizeBytes();
            this.trouble = trouble;
            this.detail = detail;
        }
    }

    private final File home;
    private final File outside;
    private final File choice;

    /**
     * @param home the app's own folder, where imports go.
     * @param outside a second folder, where a computer can put models by cable; null when the phone has none.
     * @param choice file that remembers which model was chosen.
     */
    public ModelShelf(File home, File outside, File choice) {
        this.home = home;
        this.outside = outside;
        this.choice = choice;
    }

    public File home() {
        return home;
    }

    /** All models by name; sizes are checked, hashes when one is opened. Reads files: not for the main thread. */
    public List<Model> models() {
        List<Model> models = new ArrayList<Model>();
        for (File place : new File[] {home, outside}) {
            File[] folders = place == null ? null : place.listFiles();
            if (folders == null) {
                continue;
            }
            Arrays.sort(folders);
            for (File folder : folders) {
                if (folder.isDirectory() && !folder.getName().startsWith(".")) {
                    models.add(read(folder));
                }
            }
        }
        return models;
    }

    public Model read(File folder) {
        try {
            return new Model(folder, PalmtopBundle.open(folder), null, "");
        } catch (PalmtopException error) {
            return new Model(folder, null, Trouble.of(error), Trouble.detail(error));
        }
    }

    /** The chosen model's folder, or the first usable one's; null when there is none. */
    public File chosen() {
        try {
            File folder = new File(TextFile.read(choice, MAX_CHOICE_BYTES).trim());
            if (folder.isDirectory()) {
                return folder;
            }
        } catch (IOException error) {
            // nothing chosen yet
        }
        for (Model model : models()) {
            if (model.bundle != null) {
                return model.folder;
            }
        }
        return null;
    }

    public void choose(File folder) throws IOException {
        TextFile.write(choice, folder.getPath());
    }

    /** Remove a model; first its manifest, so that a half deleted one is never taken for whole. */
    public boolean delete(File folder) {
        new File(folder, BundleImport.MANIFEST).delete();
        return deleteTree(folder);
    }

    /** Remove what an import left that was killed. */
    public void sweep() {
        File[] left = home.listFiles();
        for (File folder : left == null ? new File[0] : left) {
            if (folder.getName().startsWith(UNFINISHED)) {
                deleteTree(folder);
            }
        }
    }

    /** A folder for a new model: its name made safe, and unlike any that is there. */
    File freeName(String wanted) {
        String safe = wanted.replaceAll("[^A-Za-z0-9._ -]", "-").replaceAll("^[. ]+", "").trim();
        safe = safe.isEmpty() ? "model" : safe.length() > 60 ? safe.substring(0, 60) : safe;
        File folder = new File(home, safe);
        for (int number = 2; folder.exists(); number++) {
            folder = new File(home, safe + " " + number);
        }
        return folder;
    }

    static boolean deleteTree(File file) {
        File[] children = file.listFiles();
        for (File child : children == null ? new File[0] : children) {
            deleteTree(child);
        }
        return file.delete();
    }

    static long bytesIn(File folder) {
        long sum = 0;
        File[] files = folder.listFiles();
        for (File file : files == null ? new File[0] : files) {
            sum += file.isDirectory() ? bytesIn(file) : file.length();
        }
        return sum;
    }
}
