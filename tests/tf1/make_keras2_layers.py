"""Make `keras2_layers.json`: what Keras 2 computes, layer by layer. Run it where tf_keras 2 is installed."""
import json
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import tensorflow as tf
import tf_keras as k
from keras2_layers import TABLE, inputs, summary, write
from tf_keras.src.applications.convnext import LayerScale, StochasticDepth

K = k.layers
OWN = {kind.__name__: kind for kind in (LayerScale, StochasticDepth)} # they are not registered
KINDS = {
 'Dense':((5,),lambda:K.Dense(3,activation='gelu',kernel_regularizer='l2',bias_constraint='non_neg')),
 'EinsumDense':((4,6),lambda:K.EinsumDense('abc,cd->abd',output_shape=(None,5),bias_axes='d')),
 'Activation':((5,),lambda:K.Activation('swish')),
 'hard_sigmoid':((5,),lambda:K.Activation('hard_sigmoid')),
 'softsign':((5,),lambda:K.Activation('softsign')),
 'exponential':((5,),lambda:K.Activation('exponential')),
 'mish':((5,),lambda:K.Activation('mish')),
 'LeakyReLU':((5,),lambda:K.LeakyReLU(alpha=.2)),
 'PReLU':((4,5,3),lambda:K.PReLU(shared_axes=[1,2],alpha_initializer='uniform')),
 'ELU':((5,),lambda:K.ELU(.7)),
 'ThresholdedReLU':((5,),lambda:K.ThresholdedReLU(.3)),
 'Softmax':((5,3),lambda:K.Softmax(axis=1)),
 'ReLU':((5,),lambda:K.ReLU(max_value=1.,negative_slope=.1,threshold=.2)),
 'Conv1D':((8,3),lambda:K.Conv1D(4,3,padding='causal',dilation_rate=2)),
 'Conv1Dg':((8,4),lambda:K.Conv1D(4,3,groups=2,strides=2,padding='same')),
 'Conv2D':((8,8,3),lambda:K.Conv2D(4,3,strides=2,padding='same',activation='relu')),
 'Conv3D':((6,6,6,2),lambda:K.Conv3D(3,2)),
 'Conv1DT':((8,3),lambda:K.Conv1DTranspose(4,3,strides=2,output_padding=1)),
 'Conv2DT':((8,8,3),lambda:K.Conv2DTranspose(4,3,strides=2,padding='same',output_padding=1)),
 'Conv2DT3':((8,8,3),lambda:K.Conv2DTranspose(4,3,strides=3,padding='same')),
 'Conv2DT4':((8,8,3),lambda:K.Conv2DTranspose(4,5,strides=2,padding='valid')),
 'Conv2DTd':((8,8,3),lambda:K.Conv2DTranspose(4,3,dilation_rate=2,padding='same')),
 'Conv3DT':((4,4,4,2),lambda:K.Conv3DTranspose(3,2,strides=2)),
 'Sep1':((8,3),lambda:K.SeparableConv1D(4,3,depth_multiplier=2)),
 'Sep2':((8,8,3),lambda:K.SeparableConv2D(4,3,depth_multiplier=2,dilation_rate=2)),
 'DW1':((8,3),lambda:K.DepthwiseConv1D(3,depth_multiplier=2)),
 'DW2':((8,8,3),lambda:K.DepthwiseConv2D(3,depth_multiplier=2,strides=2,padding='same')),
 'MaxP1':((8,3),lambda:K.MaxPooling1D(2)),'MaxP2':((8,8,3),lambda:K.MaxPool2D((3,2),strides=1,padding='same')),'MaxP3':((4,4,4,2),lambda:K.MaxPool3D()),
 'AvgP1':((8,3),lambda:K.AveragePooling1D(3,padding='same')),'AvgP2':((9,9,3),lambda:K.AvgPool2D(2,padding='same')),'AvgP3':((4,4,4,2),lambda:K.AvgPool3D()),
 'GMax1':((8,3),lambda:K.GlobalMaxPool1D()),'GMax2':((8,8,3),lambda:K.GlobalMaxPool2D(keepdims=True)),'GMax3':((4,4,4,2),lambda:K.GlobalMaxPool3D()),
 'GAvg1':((8,3),lambda:K.GlobalAveragePooling1D()),'GAvg2':((8,8,3),lambda:K.GlobalAvgPool2D()),'GAvg3':((4,4,4,2),lambda:K.GlobalAvgPool3D()),
 'BN':((5,),lambda:K.BatchNormalization(momentum=.9,scale=False)),'BNa':((4,5,3),lambda:K.BatchNormalization(axis=[2])),'BNa2':((4,5,3),lambda:K.BatchNormalization(axis=1)),
 'BNvirt':((5,),lambda:K.BatchNormalization(renorm=True)),
 'LN':((4,5),lambda:K.LayerNormalization(axis=[1,2])),'LN1':((4,5),lambda:K.LayerNormalization(center=False)),'GN':((4,6),lambda:K.GroupNormalization(3)),'UN':((4,6),lambda:K.UnitNormalization()),
 'Spec':((4,6),lambda:K.SpectralNormalization(K.Dense(3))),
 'Drop':((4,6),lambda:[K.Dropout(.3,noise_shape=[None,1,6]),K.Dense(2)]),'SpD1':((4,6),lambda:[K.SpatialDropout1D(.3),K.Dense(2)]),'SpD2':((4,4,6),lambda:[K.SpatialDropout2D(.3),K.Dense(2)]),'GD':((6,),lambda:[K.GaussianDropout(.3),K.Dense(2)]),'GNoise':((6,),lambda:[K.GaussianNoise(.3),K.Dense(2)]),'AD':((6,),lambda:[K.AlphaDropout(.3),K.Dense(2)]),
 'ActReg':((6,),lambda:[K.ActivityRegularization(.1,.1),K.Dense(2,activity_regularizer='l1')]),
 'Flatten':((4,6),lambda:K.Flatten()),'FlattenCF':((4,6,3),lambda:K.Flatten(data_format='channels_first')),'Reshape':((4,6),lambda:K.Reshape((-1,3))),'Permute':((4,6),lambda:K.Permute((2,1))),'RepeatV':((6,),lambda:K.RepeatVector(3)),
 'Crop1':((8,3),lambda:K.Cropping1D((1,2))),'Crop2':((8,8,3),lambda:K.Cropping2D(((1,2),(0,1)))),'Crop3':((4,4,4,3),lambda:K.Cropping3D(1)),
 'Pad1':((8,3),lambda:K.ZeroPadding1D(2)),'Pad2':((8,8,3),lambda:K.ZeroPadding2D(((1,2),(0,1)))),'Pad3':((4,4,4,3),lambda:K.ZeroPadding3D(1)),
 'Up1':((8,3),lambda:K.UpSampling1D(2)),'Up2':((8,8,3),lambda:K.UpSampling2D(2,interpolation='bilinear')),'Up2n':((8,8,3),lambda:K.UpSampling2D((2,3),interpolation='lanczos3')),'Up3':((4,4,4,3),lambda:K.UpSampling3D(2)),
 'Masking':((4,3),lambda:[K.Masking(0.),K.LSTM(3)]),
 'LSTM':((4,3),lambda:K.LSTM(5,return_sequences=True,recurrent_activation='hard_sigmoid',unit_forget_bias=False)),'LSTMback':((4,3),lambda:K.LSTM(5,go_backwards=True,unroll=True,implementation=1)),
 'GRU':((4,3),lambda:K.GRU(5)),'GRUold':((4,3),lambda:K.GRU(5,reset_after=False,use_bias=False)),'SRNN':((4,3),lambda:K.SimpleRNN(5,activation='relu')),
 'GRUtm':((4,3),lambda:K.GRU(5,stateful=False,dropout=.2,recurrent_dropout=.2)),
 'Bi':((4,3),lambda:K.Bidirectional(K.LSTM(5,return_sequences=True),merge_mode='sum')),'Bi2':((4,3),lambda:K.Bidirectional(K.GRU(5),backward_layer=K.GRU(5,go_backwards=True),merge_mode='ave')),'Bi3':((4,3),lambda:K.Bidirectional(K.LSTM(5,return_sequences=True))),
 'BiMix':((4,3),lambda:K.Bidirectional(K.GRU(5),backward_layer=K.LSTM(5,go_backwards=True))),
 'RNNcell':((4,3),lambda:K.RNN(K.LSTMCell(5))),'RNNstack':((4,3),lambda:K.RNN([K.GRUCell(5),K.LSTMCell(4),K.SimpleRNNCell(3)])),'RNNstack2':((4,3),lambda:K.RNN(K.StackedRNNCells([K.GRUCell(5,reset_after=False),K.LSTMCell(4)]),return_sequences=True)),
 'BiRNN':((4,3),lambda:K.Bidirectional(K.RNN(K.LSTMCell(5)))),
 'ConvLSTM1':((4,6,3),lambda:K.ConvLSTM1D(2,3)),'ConvLSTM2':((4,6,6,3),lambda:K.ConvLSTM2D(2,3,return_sequences=True,padding='same')),'ConvLSTM3':((2,4,4,4,3),lambda:K.ConvLSTM3D(2,2)),
 'BiConvLSTM':((4,6,6,3),lambda:K.Bidirectional(K.ConvLSTM2D(2,3))),
 'TD':((4,6),lambda:K.TimeDistributed(K.Dense(3))),'TDconv':((4,6,6,2),lambda:[K.TimeDistributed(K.Conv2D(3,2)),K.TimeDistributed(K.MaxPool2D()),K.TimeDistributed(K.Flatten()),K.LSTM(3)]),'TDbn':((4,6),lambda:K.TimeDistributed(K.BatchNormalization())),
 'TDmodel':((4,6),lambda:K.TimeDistributed(k.Sequential([K.Dense(3,input_shape=(6,)),K.Dense(2)]))),
 'TDnested':((4,5,6),lambda:K.TimeDistributed(K.TimeDistributed(K.Dense(2)))),
 'TDbi':((2,4,3),lambda:K.TimeDistributed(K.Bidirectional(K.LSTM(2)))),
 'Rescale':((8,8,3),lambda:K.Rescaling(1/255.,offset=-1)),'Resizing':((8,8,3),lambda:K.Resizing(5,5)),'ResizingC':((8,10,3),lambda:K.Resizing(5,5,crop_to_aspect_ratio=True)),'CenterCrop':((8,8,3),lambda:K.CenterCrop(5,5)),
 'RFlip':((8,8,3),lambda:[K.RandomFlip(),K.RandomRotation(.1),K.RandomZoom(.1),K.RandomTranslation(.1,.1),K.RandomContrast(.1),K.RandomBrightness(.1),K.Dense(2)]),
 'RCrop':((8,8,3),lambda:[K.RandomCrop(5,5),K.Dense(2)]),
 'SyncBN':((5,),lambda:K.experimental.SyncBatchNormalization()),
 'Scaled':((4,6),lambda:[LayerScale(.5,6),StochasticDepth(.3),K.Dense(2)]),
 'TimeMajor':((4,3),lambda:K.LSTM(5,time_major=True)),'ResizingG':((8,8,3),lambda:K.Resizing(5,5,interpolation='gaussian')),
 'LC1':((8,3),lambda:K.LocallyConnected1D(4,3)),'LC2':((8,8,3),lambda:K.LocallyConnected2D(4,3)),
 'RandomHeight':((8,8,3),lambda:K.RandomHeight(.2)),
 'AlphaNone':((5,),lambda:K.Dense(3,kernel_initializer=k.initializers.RandomNormal(stddev=.1,seed=3),bias_initializer=k.initializers.Constant(.2),kernel_constraint=k.constraints.MaxNorm(2.),kernel_regularizer=k.regularizers.L1L2(.1,.2))),
 'Orth':((5,),lambda:K.Dense(3,kernel_initializer='orthogonal',kernel_regularizer=k.regularizers.OrthogonalRegularizer())),
 'VS':((5,),lambda:K.Dense(3,kernel_initializer=k.initializers.VarianceScaling(2.,mode='fan_out',distribution='untruncated_normal'))),
 'lecun':((5,),lambda:K.Dense(3,kernel_initializer='lecun_normal',activation='selu')),
 'UnitNormC':((5,),lambda:K.Dense(3,kernel_constraint=k.constraints.UnitNorm(axis=0),bias_initializer='ones')),
 'MinMaxC':((5,),lambda:K.Dense(3,kernel_constraint=k.constraints.MinMaxNorm(.1,.9,rate=.9,axis=0))),
 'RadialC':((8,8,3),lambda:K.Conv2D(3,3,kernel_constraint=k.constraints.RadialConstraint())),
 'StackConv':((8,8,3),lambda:[K.Conv2D(4,3,use_bias=False),K.BatchNormalization(),K.ReLU(6.),K.DepthwiseConv2D(3),K.GlobalAveragePooling2D(),K.Dropout(.2),K.Dense(3,activation='softmax')]),
}

MODELS = {}


def case(build):
    MODELS[build.__name__] = build
    return build


def rnd(*shape): return ["float32", 0, shape]
def ints(top, shape, dtype="int32"): return [dtype, top, shape]


@case
def emb():
    return k.Sequential([K.Embedding(20,4,mask_zero=True,input_length=6),K.LSTM(3),K.Dense(1)]),[ints(20, (2,6))]


@case
def emb_bi():
    return k.Sequential([K.Embedding(20,4,input_length=6),K.SpatialDropout1D(.2),K.Bidirectional(K.GRU(3,return_sequences=True)),K.GlobalMaxPool1D(),K.Dense(1)]),[ints(20, (2,6))]


@case
def merges():
    a,b=K.Input((4,)),K.Input((4,))
    o=[K.Add()([a,b]),K.Subtract()([a,b]),K.Multiply()([a,b]),K.Average()([a,b]),K.Maximum()([a,b]),K.Minimum()([a,b]),K.Dot(1,normalize=True)([a,b]),K.Concatenate(axis=-1)([a,b])]
    return k.Model([a,b],K.concatenate(o)),[rnd(2,4),rnd(2,4)]


@case
def dot_axes():
    a,b=K.Input((4,5)),K.Input((6,5)); return k.Model([a,b],K.Dot(axes=(2,2))([a,b])),[rnd(2,4,5),rnd(2,6,5)]


@case
def attention():
    q,v=K.Input((4,5)),K.Input((6,5)); a=K.Attention(use_scale=True)([q,v]); b=K.AdditiveAttention()([q,v]); return k.Model([q,v],K.Concatenate()([a,b])),[rnd(2,4,5),rnd(2,6,5)]


@case
def mha():
    q,v=K.Input((4,5)),K.Input((6,5)); a=K.MultiHeadAttention(2,3,value_dim=4,output_shape=7)(q,v); return k.Model([q,v],a),[rnd(2,4,5),rnd(2,6,5)]


@case
def mha_causal():
    q=K.Input((4,6)); a=K.MultiHeadAttention(2,3)(q,q,use_causal_mask=True); a=K.LayerNormalization(epsilon=1e-6)(a+q); return k.Model(q,a),[rnd(2,4,6)]


@case
def seq2seq():
    e=K.Input((None,4)); d=K.Input((None,3)); _,h,c=K.LSTM(5,return_state=True)(e); y,_,_=K.LSTM(5,return_sequences=True,return_state=True)(d,initial_state=[h,c]); return k.Model([e,d],K.Dense(2,activation='softmax')(y)),[rnd(2,6,4),rnd(2,5,3)]


@case
def seq2seq_bi():
    e=K.Input((6,4)); d=K.Input((5,3)); y,fh,fc,bh,bc=K.Bidirectional(K.LSTM(5,return_state=True))(e); h=K.Concatenate()([fh,bh]); c=K.Concatenate()([fc,bc]); z=K.LSTM(10,return_sequences=True)(d,initial_state=[h,c]); return k.Model([e,d],z),[rnd(2,6,4),rnd(2,5,3)]


@case
def gru_initial():
    e=K.Input((6,4)); s=K.Input((5,)); y=K.GRU(5,return_sequences=True)(e,initial_state=s); return k.Model([e,s],y),[rnd(2,6,4),rnd(2,5)]


@case
def shared_siamese():
    b=k.Sequential([K.Dense(4,input_shape=(5,)),K.Dense(3)]); a,c=K.Input((5,)),K.Input((5,)); return k.Model([a,c],K.subtract([b(a),b(c)])),[rnd(2,5),rnd(2,5)]


@case
def shared_unbuilt():
    b=k.Sequential([K.Dense(4),K.Dense(3)]); a,c=K.Input((5,)),K.Input((5,)); return k.Model([a,c],K.subtract([b(a),b(c)])),[rnd(2,5),rnd(2,5)]


@case
def shared_layer():
    d=K.Dense(5); a=K.Input((5,)); return k.Model(a,K.add([d(a),d(d(a))])),[rnd(2,5)]


@case
def nested3():
    i=K.Input((6,)); m1=k.Model(i,K.Dense(4)(i),name='one'); j=K.Input((6,)); m2=k.Model(j,K.Dense(3)(m1(j)),name='two'); l=K.Input((6,)); return k.Model(l,K.Dense(2)(m2(l))),[rnd(2,6)]


@case
def nested_multi_out():
    i=K.Input((6,)); m1=k.Model(i,[K.Dense(4)(i),K.Dense(5)(i)],name='one'); l=K.Input((6,)); a,b=m1(l); return k.Model(l,[K.Dense(2)(a),K.Dense(2)(b)]),[rnd(2,6)]


@case
def nested_twice():
    i=K.Input((6,)); m1=k.Model(i,K.Dense(6)(i),name='one'); l=K.Input((6,)); return k.Model(l,m1(m1(l))),[rnd(2,6)]


@case
def ops1():
    a=K.Input((4,5)); x=tf.nn.relu(a*2.+1.-a/3.); x=tf.reduce_mean(x,axis=1,keepdims=True); x=tf.concat([x,x],axis=-1); x=tf.squeeze(x,1); x=tf.expand_dims(x,-1); x=tf.transpose(x,[0,2,1]); x=x**2; x=tf.math.sqrt(tf.abs(x)+1e-3); return k.Model(a,x[:,0,::2]),[rnd(2,4,5)]


@case
def slice_many():
    a=K.Input((8,8,3)); return k.Model(a,[a[:,1:-1,...],a[...,0],a[:,::2,None],a[:,-1]]),[rnd(2,8,8,3)]


@case
def noname_seq():
    return k.Sequential([K.Dense(3,input_dim=5),K.Activation('relu'),K.Dense(2)]),[rnd(2,5)]


@case
def seq_in_seq():
    return k.Sequential([k.Sequential([K.Dense(3,input_shape=(5,))]),k.Sequential([K.Dense(2)])]),[rnd(2,5)]


@case
def multi_io_named():
    a,b=K.Input((4,),name='left'),K.Input((3,),name='right'); h=K.concatenate([a,b]); return k.Model({'left':a,'right':b},{'one':K.Dense(2,name='one')(h),'two':K.Dense(1,name='two')(h)}),[rnd(2,4),rnd(2,3)]


@case
def discretize():
    return k.Sequential([K.Input((3,)),K.Discretization([-.5,0.,.5]),]),[rnd(2,3)]


@case
def cat_enc():
    return k.Sequential([K.Input((3,),dtype='int32'),K.CategoryEncoding(5,output_mode='multi_hot'),K.Dense(2)]),[ints(5, (2,3))]


@case
def normalization_fixed():
    return k.Sequential([K.Input((3,)),K.Normalization(mean=[1.,2.,3.],variance=2.),K.Dense(2)]),[rnd(2,3)]


@case
def nested_frozen_bn():
    b=k.Sequential([K.Conv2D(3,3,input_shape=(8,8,3)),K.BatchNormalization(),K.Conv2D(3,3)]); b.layers[0].trainable=False; return k.Sequential([b,K.Flatten(),K.Dense(2)]),[rnd(2,8,8,3)]


@case
def dotted_names():
    i=K.Input((5,),name='my.input'); return k.Model(i,K.Dense(2,name='out/put')(K.Dense(3,name='dense.1')(i))),[rnd(2,5)]


@case
def same_names_nested():
    a=k.Sequential([K.Dense(4,input_shape=(5,),name='dense')],name='a'); b=k.Sequential([K.Dense(4,input_shape=(5,),name='dense')],name='b'); i=K.Input((5,)); return k.Model(i,K.add([a(i),b(i)])),[rnd(2,5)]


@case
def a_loss_inside():
    i=K.Input((4,)); h=K.Dense(4)(i); aux=K.Dense(4)(h); y=K.Dense(4)(h); m=k.Model(i,[y,K.Dense(4)(y)]); m.add_loss(tf.reduce_mean(aux**2)); m.add_metric(y,name='q'); return m,[rnd(2,4)]


@case
def a_loss_inside_what_is_nested():
    i=K.Input((4,)); h=K.Dense(4)(i); aux=K.Dense(4)(h); y=K.Dense(4)(h); b=k.Model(i,K.BatchNormalization()(y),name='body'); b.add_loss(tf.reduce_mean(aux**2)); j=K.Input((4,)); return k.Model(j,K.Dense(2)(b(j))),[rnd(2,4)]


@case
def called_with_a_dict():
    i={'b':K.Input((4,),name='b'),'a':K.Input((3,),name='a')}; b=k.Model(i,{'y':K.Dense(2,name='y')(i['b']),'x':K.Dense(3,name='x')(i['a'])},name='inner')
    j={'b':K.Input((4,),name='b2'),'a':K.Input((3,),name='a2')}; o=b(j); return k.Model([j['b'],j['a']],K.Concatenate()([o['y'],o['x']])),[rnd(2,4),rnd(2,3)]


@case
def act_layer_in():
    i=K.Input((5,)); return k.Model(i,K.Dense(3,activation=K.LeakyReLU(.1))(i)),[rnd(2,5)]



def entry(name, model, given):
    "What the file of a model holds, and what it computes."
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)/"m.h5"
        model.save(path)
        with h5py.File(path) as file:
            top = file["model_weights"]
            plain = lambda v: v.decode() if isinstance(v, bytes) else v
            layers = [[plain(n), [[plain(w), list(top[plain(n)][plain(w)].shape), str(top[plain(n)][plain(w)].dtype)] for w in top[plain(n)].attrs["weight_names"]]]
                      for n in top.attrs["layer_names"]]
            made = dict(kind=name, version=str(file.attrs["keras_version"]), config=json.loads(file.attrs["model_config"]), layers=layers)
        made["inputs"] = [[list(shape), dtype, top] for dtype, top, shape in given]
        again, arrays = k.models.load_model(write(made, path), OWN, compile=False), inputs(made)
        given = dict(zip(again.input, arrays)) if isinstance(again.input, dict) else arrays if len(arrays) > 1 else arrays[0]
        made["shapes"], made["numbers"] = summary(tf.nest.flatten(again(given, training=False)))
    return made


def single(shape, make):
    made = make()
    return k.Sequential([K.Input(shape), *(made if isinstance(made, list) else [made])]), [rnd(2, *shape)]


if __name__ == "__main__":
    found = []
    for name, build in [*((n, lambda s=s, m=m: single(s, m)) for n, (s, m) in KINDS.items()), *MODELS.items()]:
        k.backend.clear_session()
        try: found.append(entry(name, *build()))
        except Exception as error: print("left out:", name, type(error).__name__, str(error)[:120], file=sys.stderr)
    TABLE.write_text(json.dumps(found, separators=(",", ":")) + "\n")
    print(len(found), "kinds,", TABLE.stat().st_size, "bytes")
