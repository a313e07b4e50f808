"""A worker as another implementation of the protocol would be one: it joins and keeps its lease."""
import os
import queue

import grpc

from call import message_class, types


class Worker:
    def __init__(self, name):
        self.channel = grpc.insecure_channel(os.environ["DISTILL_SERVER"], [("grpc.enable_http_proxy", 0)])
        pool = types(self.channel, "distill.v1.Cluster")
        self.message = message_class(pool, pool.FindMessageTypeByName("distill.v1.WorkerMessage"))
        self.reply = message_class(pool, pool.FindMessageTypeByName("distill.v1.CoordinatorMessage"))
        self.waiting = queue.Queue()
        self.hello = self.message()
        self.hello.hello.protocol = 3
        self.hello.hello.name = name
        self.hello.hello.incarnation = "0123456789abcdef"
        self.hello.hello.threads = 1

    def ready(self, job, stage=0):
        """What a stage is made of, which is not what the job's other workers find."""
        message = self.message()
        message.ready.job = job
        message.ready.stage = stage
        info = message.ready.info
        info.parameters, info.train_samples, info.val_samples, info.classes = 5000, 77, 7, 3
        info.batch, info.slots, info.epochs, info.chunk_floats = 16, 4, 1, 4096
        info.data_digest = info.classes_digest = "00112233445566778899aabbccddeeff"
        info.table, info.model, info.metadata, info.epoch_samples = "[]", "mlp", "{}", 77
        return message

    def send(self, message):
        self.waiting.put(message)

    def bytes_of(self, message):
        return message.SerializeToString()

    def messages(self):
        """What the coordinator says, as it comes, from the hello on."""
        beat = self.message()
        beat.heartbeat.phase = "idle"

        def outgoing():
            yield self.hello
            while True:
                try:
                    yield self.waiting.get(timeout=0.3)
                except queue.Empty:
                    yield beat

        control = self.channel.stream_stream("/distill.v1.Cluster/Control",
                                             request_serializer=self.bytes_of,
                                             response_deserializer=self.reply.FromString)
        return control(outgoing())
